"""Requests are strict: what is wrong is named, nothing is dropped silently, and limits come before any work."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bloomery.serve.reading import ApiError, read
from bloomery.serve.schema import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    EmbeddingRequest,
    TokenizeRequest,
)
from bloomery.serve.settings import ServeSettings

ASKED = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
TEXT = {"model": "m", "prompt": "hello"}


def wrong(model, body, **settings) -> ApiError:
    with pytest.raises(ApiError) as caught:
        read(model, body if isinstance(body, bytes) else json.dumps(body).encode(), ServeSettings(**settings))
    assert caught.value.status == 400 and caught.value.headers == {"x-should-retry": "false"}
    return caught.value


@pytest.mark.parametrize("more, param, says", [
    ({"temperature": 3}, "temperature", "at most 2"), ({"temperature": "1"}, "temperature", "a number"),
    ({"temperature": True}, "temperature", "a number"), ({"top_p": 0}, "top_p", "greater than 0"),
    ({"n": 0}, "n", "at least 1"), ({"n": 9}, "n", "8 answers at a time"), ({"n": 1.5}, "n", "whole number"),
    ({"stop": [""]}, "stop[0]", ""), ({"stop": ["a"] * 5}, "stop", "at most 4"),
    ({"stop": "a" * 300}, "stop", "256 characters"), ({"logit_bias": {"x": 1}}, "logit_bias.x", ""),
    ({"logit_bias": {"1": 101}}, "logit_bias[1]", "at most 100"), ({"top_logprobs": 2}, "top_logprobs", "logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "at most 20"),
    ({"stream_options": {"include_usage": True}}, "stream_options", "only with stream"),
    ({"best_of": 1, "n": 2}, "best_of", "at least n"), ({"best_of": 9}, "best_of", "8 answers"),
    ({"best_of": 2, "stream": True}, "best_of", "stream"), ({"reward": "rm", "stream": True}, "reward", "stream"),
    ({"num_beams": 2, "stream": True}, "num_beams", "stream"), ({"num_beams": 2, "top_p": 0.5}, "top_p", "num_beams"),
    ({"num_beams": 2, "temperature": 0.7}, "temperature", "nothing is drawn"),
    ({"num_beams": 2, "logprobs": True}, "logprobs", "num_beams"), ({"num_beams": 9}, "num_beams", "at most 8"),
    ({"min_tokens": 5, "max_tokens": 4}, "min_tokens", "max_tokens"), ({"seed": 2**60}, "seed", ""),
    ({"messages": []}, "messages", ""), ({"messages": [{"role": "robot", "content": "a"}]}, "messages[0].role", "must"),
    ({"messages": [{"role": "user", "content": " \n"}]}, "messages[0].content", "empty"),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": ""}]}]}, "messages[0].content", "empty"),
    ({"messages": [{"role": "user"}]}, "messages[0].content", "missing"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].type", "'text'"),
    ({"bad_words": ["a"] * 300}, "bad_words", "256"), ({"model": 3}, "model", "text"),
], ids=str)
def test_what_is_wrong_is_named(more, param, says):
    error = wrong(ChatRequest, ASKED | more, slots=8)
    assert error.param == param
    assert says in error.message and error.kind == "invalid_request_error"


@pytest.mark.parametrize("name", ["tools", "functions", "response_format", "audio", "parallel_tool_calls", "store"])
def test_what_is_not_supported_is_refused_unless_it_asks_for_nothing(name):
    error = wrong(ChatRequest, ASKED | {name: [{"type": "function"}]})
    assert (error.param, error.code) == (name, "unsupported_parameter") and name in error.message
    request, ignored = read(ChatRequest, json.dumps(ASKED | {name: None}).encode(), ServeSettings())
    assert ignored == [] and request.messages[0].content == "hello"


def test_values_that_ask_for_nothing():
    body = ASKED | {"response_format": {"type": "text"}, "tools": [], "tool_choice": "none", "store": False}
    assert read(ChatRequest, json.dumps(body).encode(), ServeSettings())[1] == []
    body = ASKED | {"messages": [{"role": "assistant", "content": "a", "refusal": None, "tool_calls": None}]}
    assert read(ChatRequest, json.dumps(body).encode(), ServeSettings())[1] == []
    assert wrong(CompletionRequest, TEXT | {"suffix": "x"}).code == "unsupported_parameter"


@pytest.mark.parametrize("name, near", [("max_token", "max_tokens"), ("temprature", "temperature"), ("topp", "top_p")])
def test_an_unknown_field_is_named_with_the_nearest_one(name, near):
    error = wrong(ChatRequest, ASKED | {name: 1})
    assert (error.param, error.code) == (name, "unknown_parameter") and f"did you mean {near}?" in error.message
    assert wrong(ChatRequest, ASKED | {name: None}).param == name                     # null is no excuse


def test_a_lenient_server_lists_what_it_left_out():
    body = json.dumps(ASKED | {"tools": [{}], "max_token": 1, "temperature": 1,
                               "messages": [{"role": "user", "content": "a", "name": "Ann"}]}).encode()
    request, ignored = read(ChatRequest, body, ServeSettings(lenient=True))
    assert sorted(ignored) == ["max_token", "messages[0].name", "tools"] and request.temperature == 1
    assert wrong(ChatRequest, ASKED | {"tools": [{}], "temperature": 3}, lenient=True).param == "temperature"


def test_null_is_as_good_as_nothing_where_it_may_be_left_out():
    request, _ = read(ChatRequest, json.dumps(ASKED | {"temperature": None, "n": None, "stop": None, "top_p": None,
                                                       "stream": None, "max_tokens": None}).encode(), ServeSettings())
    assert (request.temperature, request.n, request.stream, request.max_tokens) == (1.0, 1, False, None)
    assert wrong(ChatRequest, ASKED | {"model": None}).param == "model"


@pytest.mark.parametrize("body", [b"", b"[]", b"3", b"{", b'{"model": NaN}', b"\xff", b'{"model": "\\ud800"}',
                                  b"[" * 1000 + b"]" * 1000, b'{"a":' * 1000 + b"1" + b"}" * 1000])
def test_what_is_no_object_of_json(body):
    assert wrong(ChatRequest, body).code == "invalid_json"


def test_whole_numbers_may_be_written_as_json_writes_them():
    request, _ = read(ChatRequest, json.dumps(ASKED | {"n": 2.0, "temperature": 1}).encode(), ServeSettings())
    assert request.n == 2 and isinstance(request.n, int)


@pytest.mark.parametrize("model, body, settings, param", [
    (ChatRequest, ASKED | {"messages": ASKED["messages"] * 3}, {"messages": 2}, "messages"),
    (ChatRequest, ASKED, {"characters": 4}, "messages"), (CompletionRequest, TEXT, {"characters": 4}, "prompt"),
    (CompletionRequest, TEXT | {"prompt": ["a"] * 3}, {"prompts": 2}, "prompt"),
    (EmbeddingRequest, {"model": "m", "input": ["a"] * 3}, {"prompts": 2}, "input"),
    (EmbeddingRequest, {"model": "m", "input": ""}, {}, "input"),
    (CompletionRequest, TEXT | {"logit_bias": {"1": 1, "2": 1}}, {"biases": 1}, "logit_bias"),
    (CompletionRequest, TEXT | {"prompt": [[]]}, {}, "prompt[0]"),
    (CompletionRequest, TEXT | {"prompt": [-1]}, {}, "prompt[0]"),
    (TokenizeRequest, {"model": "m"}, {}, "prompt"), (TokenizeRequest, ASKED | {"prompt": "a"}, {}, "prompt"),
    (DetokenizeRequest, {"model": "m", "tokens": [1.5]}, {}, "tokens[0]"),
])
def test_limits_and_forms_of_the_other_requests(model, body, settings, param):
    assert wrong(model, body, **settings).param == param


JSON = st.recursive(st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text() |
                    st.integers(), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
                        st.sampled_from([*ChatRequest.model_fields, "role", "content", "tools", "odd"]), inner,
                        max_size=4), max_leaves=12)


@given(JSON, st.sampled_from([ChatRequest, CompletionRequest, EmbeddingRequest, TokenizeRequest]), st.booleans())
def test_whatever_is_sent_is_read_or_refused(value, model, lenient):
    """Never another exception, and a refusal can always be written."""
    body = json.dumps((ASKED | TEXT | value) if isinstance(value, dict) else value).encode()
    try:
        request, _ = read(model, body, ServeSettings(lenient=lenient))
    except ApiError as error:
        assert error.status == 400 and json.loads(json.dumps(error.body()))["error"]["message"]
    else:
        assert request.model
