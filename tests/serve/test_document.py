"""The OpenAPI document says what requests must hold: fields that need, or exclude, each other."""

import pytest

jsonschema = pytest.importorskip("jsonschema", reason="jsonschema, which comes with schemathesis, is not installed")

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}]}
TEXT = {"model": "tiny", "prompt": "hello"}


@pytest.mark.parametrize(("name", "path", "body", "fits"), [
    ("ChatRequest", "/v1/chat/completions", CHAT, True),
    ("ChatRequest", "/v1/chat/completions", CHAT | {"stream_options": {"include_usage": True}}, False),
    ("ChatRequest", "/v1/chat/completions", CHAT | {"stream_options": {}, "stream": True, "max_tokens": 1}, True),
    ("ChatRequest", "/v1/chat/completions", CHAT | {"stream": True, "best_of": 2}, False),
    ("ChatRequest", "/v1/chat/completions", CHAT | {"top_logprobs": 1}, False),
    ("ChatRequest", "/v1/chat/completions", CHAT | {"top_logprobs": 1, "logprobs": True, "max_tokens": 1}, True),
    ("ChatRequest", "/v1/chat/completions", CHAT | {"top_logprobs": 0, "max_tokens": 1}, True),
    ("ChatRequest", "/v1/chat/completions", CHAT | {"stop": ["a"] * 5}, False),
    ("ChatRequest", "/v1/chat/completions", CHAT | {"logit_bias": {"x": 1}}, False),
    ("CompletionRequest", "/v1/completions", TEXT | {"num_beams": 2, "top_p": 0.5}, False),
    ("CompletionRequest", "/v1/completions", TEXT | {"num_beams": 2, "temperature": 0, "max_tokens": 1}, True),
    ("CompletionRequest", "/v1/completions", TEXT | {"num_beams": 1, "top_p": 0.5, "max_tokens": 1}, True),
    ("CompletionRequest", "/v1/completions", TEXT | {"num_beams": 2, "stream": True}, False),
    ("TokenizeRequest", "/tokenize", TEXT, True), ("TokenizeRequest", "/tokenize", CHAT, True),
    ("TokenizeRequest", "/tokenize", CHAT | TEXT, False), ("TokenizeRequest", "/tokenize", {"model": "tiny"}, False),
    ("TokenizeRequest", "/tokenize", TEXT | {"messages": None}, True)], ids=str)
def test_a_body_fits_the_schema_where_the_server_takes_it(server, name, path, body, fits):
    document = server.get("/openapi.json").json()
    schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
    assert jsonschema.Draft202012Validator(schema).is_valid(body) == fits
    assert (server.post(path, body).status_code == 200) == fits
