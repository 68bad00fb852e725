"""Every route of a live server: what it answers, in which shape, and what it refuses."""

import base64
import math
import struct

import httpx2 as httpx
import pytest
from live_server import SETTINGS, make_folder, running

from bloomery.generate.scoring import Verifier
from bloomery.serve import schema
from bloomery.serve.models import Served, open_models
from bloomery.serve.settings import ServeSettings

HELLO = [{"role": "user", "content": "Where is the boat?"}]
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


def chat(server, **more):
    return server.post(CHAT, {"model": "tiny", "messages": HELLO, "max_tokens": 8, "seed": 1} | more)


def text(server, **more):
    return server.post(TEXT, {"model": "base", "prompt": "The furnace", "max_tokens": 8, "seed": 1} | more)


def refused(answer, status, param=None, code=None):
    error = schema.ErrorBody.model_validate(answer.json()).error
    assert (answer.status_code, error.param) == (status, param), answer.text
    assert code is None or error.code == code
    return error.message


def test_models(server):
    answer = schema.ModelList.model_validate(server.get("/v1/models").json())
    assert [(card.id, card.kind, card.context) for card in answer.data] == [("tiny", "chat", 256),
                                                                            ("base", "completion", 256)]
    assert server.get("/v1/models/tiny").json() == answer.data[0].model_dump()
    assert "tiny" in refused(server.get("/v1/models/tyni"), 404, "model", "model_not_found")
    refused(server.get("/v1/models/../../etc/passwd"), 404)


def test_chat(server):
    answer = schema.ChatCompletion.model_validate(chat(server, n=2, logprobs=True, top_logprobs=2).json())
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    for choice in answer.choices:
        assert choice.finish_reason in ("stop", "length")
        assert b"".join(bytes(t.bytes) for t in choice.logprobs.content).decode(errors="replace") == \
            choice.message.content
        assert all(len(token.top_logprobs) == 2 and token.logprob <= 0 for token in choice.logprobs.content)


def test_the_same_prompt_again_is_read_from_the_cache(server):
    long = [{"role": "user", "content": "old green boat " * 10}]
    first, again = (chat(server, messages=long).json() for _ in range(2))
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] > 16
    assert first["choices"] == again["choices"]


def test_roles_and_parts_are_rendered_as_in_training(server):
    turns = [{"role": "developer", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}]},
             *HELLO]
    told = server.post("/tokenize", {"model": "tiny", "messages": turns}).json()
    renderer = server.models.table["tiny"].renderer
    rendered = renderer.tokenizer.decode(told["tokens"], keep_control=True)
    assert rendered == ("<|endoftext|><|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhere is the boat?"
                        "<|im_end|>\n<|im_start|>assistant\n")
    assert chat(server, messages=turns).json()["usage"]["prompt_tokens"] == told["count"]


def test_an_answer_that_goes_on(server):
    begun = [*HELLO, {"role": "assistant", "content": "It is at"}]
    assert chat(server).json()["choices"] == chat(server, continue_final_message=True).json()["choices"]
    usual, going = chat(server, messages=begun), chat(server, messages=begun, continue_final_message=True)
    assert going.json()["usage"]["prompt_tokens"] < usual.json()["usage"]["prompt_tokens"]


def test_seeds_and_biases(server):
    answers = {chat(server, seed=seed).json()["choices"][0]["message"]["content"] for seed in (1, 1, 2, 3)}
    assert len(answers) == 3
    free = chat(server).json()["choices"][0]
    assert free == chat(server, top_p=1, logit_bias={}).json()["choices"][0]
    token = server.post("/tokenize", {"model": "tiny", "prompt": "Z"}).json()["tokens"][0]
    assert chat(server, logit_bias={str(token): 100}, temperature=0).json()["choices"][0]["message"]["content"] == \
        "Z" * 8
    refused(chat(server, logit_bias={"300": 1}), 400, "logit_bias")


@pytest.mark.parametrize("stop", ["e", ["a", "i", " "]])
def test_stop_strings_end_an_answer_before_them(server, stop):
    whole = text(server, max_tokens=60, ignore_eos=True).json()["choices"][0]["text"]
    cut = min(whole.find(s) for s in stop if s in whole)
    choice = text(server, max_tokens=60, ignore_eos=True, stop=stop).json()["choices"][0]
    assert choice["text"] == whole[:cut] and choice["finish_reason"] == "stop"


def test_a_full_context_ends_an_answer(server):
    answer = chat(server, max_tokens=None, ignore_eos=True).json()
    assert answer["choices"][0]["finish_reason"] == "length" and answer["usage"]["total_tokens"] == 257


def test_what_does_not_fit_is_refused_and_not_cut(server):
    refused(chat(server, messages=[{"role": "user", "content": "x" * 300}]), 400, "messages", "context_length_exceeded")
    refused(text(server, prompt=[5] * 256), 400, "prompt", "context_length_exceeded")
    refused(text(server, max_tokens=257), 400, "max_tokens", "context_length_exceeded")
    refused(chat(server, min_tokens=257, max_tokens=None), 400, "min_tokens", "context_length_exceeded")
    refused(text(server, prompt=[300]), 400, "prompt")
    assert text(server, max_tokens=0).json()["choices"][0]["text"] == ""
    assert text(server, prompt=[5] * 256, max_tokens=0, echo=True, logprobs=0).status_code == 200


def test_completions(server):
    prompts = ["The furnace", "It is", ""]
    answer = schema.TextCompletion.model_validate(text(server, prompt=prompts, n=2).json())
    assert [choice.index for choice in answer.choices] == list(range(6))
    alone = [text(server, prompt=prompt, n=2).json()["choices"] for prompt in prompts]
    assert [choice.text for choice in answer.choices] == [choice["text"] for pair in alone for choice in pair]


def test_echoed_prompts_are_scored_as_the_model_scores_them(server):
    """What `lm-eval --model local-completions` reads: token_logprobs[ctxlen:-1] and the likeliest beside them."""
    ids = server.models.table["base"].tokenizer.encode("The furnace turns ore into iron")
    choice = text(server, prompt=[ids], max_tokens=1, echo=True, logprobs=1, temperature=0).json()["choices"][0]
    logprobs = choice["logprobs"]
    assert len(logprobs["tokens"]) == len(ids) + 1 and logprobs["token_logprobs"][0] is None
    expected = server.worker.engines["base"].score([ids[:4]], [[ids[4:]]])[0][0]
    assert math.isclose(sum(logprobs["token_logprobs"][4:-1]), expected, abs_tol=1e-4)
    assert choice["text"].startswith("The furnace turns ore into iron")
    for logp, top in zip(logprobs["token_logprobs"][1:], logprobs["top_logprobs"][1:], strict=True):
        assert logp in top.values() and max(top.values()) >= logp
    scored = text(server, prompt=[ids], max_tokens=0, echo=True, logprobs=1).json()
    assert scored["choices"][0]["logprobs"]["token_logprobs"] == logprobs["token_logprobs"][:-1]
    assert scored["usage"]["completion_tokens"] == 0


def test_beams(server):
    answer = schema.TextCompletion.model_validate(
        text(server, num_beams=4, n=3, seed=None, temperature=0, return_token_ids=True).json())
    scores = [choice.score for choice in answer.choices]
    assert scores == sorted(scores, reverse=True) and all(len(choice.token_ids) <= 8 for choice in answer.choices)
    refused(text(server, num_beams=9, seed=None), 400, "num_beams")


def test_the_likeliest_of_several(server):
    answer = schema.ChatCompletion.model_validate(chat(server, best_of=6, n=2).json())
    scores = [one.score for one in answer.best_of.scores]
    assert len(scores) == 6 and scores == sorted(scores, reverse=True)
    assert [choice.score for choice in answer.choices] == scores[:2]
    assert [choice.message.content for choice in answer.choices] == [one.text for one in answer.best_of.scores[:2]]
    assert math.isclose(answer.best_of.kl_bound, math.log(6) - 5 / 6) and answer.best_of.kl <= answer.best_of.kl_bound
    drawn = chat(server, n=6).json()["choices"]
    assert sorted(choice["message"]["content"] for choice in drawn) == sorted(one.text for one in answer.best_of.scores)


def test_best_of_n_under_rewards_and_an_ensemble(tiny_folder):
    settings = ServeSettings(**SETTINGS)
    models = open_models([str(tiny_folder)], settings)
    models.add(Served("short", "reward", reward=Verifier(lambda asked, answer: -len(answer))))
    models.add(Served("asked", "reward", reward=Verifier(lambda asked, answer: len(asked[-1].content) + len(answer))))
    with running(models, settings) as server:
        assert [card["kind"] for card in server.get("/v1/models").json()["data"]] == ["chat", "reward", "reward"]
        answer = chat(server, best_of=5, reward="short", max_tokens=12).json()
        texts = [one["text"] for one in answer["best_of"]["scores"]]
        assert answer["choices"][0]["message"]["content"] == min(texts, key=len) == texts[0]
        answer = chat(server, best_of=5, reward=["short", "asked"], combine="min", max_tokens=12).json()
        schema.ChatCompletion.model_validate(answer)
        for one in answer["best_of"]["scores"]:
            assert one["rewards"] == {"short": -len(one["text"]), "asked": 18 + len(one["text"])}
            assert one["score"] == min(one["rewards"].values())
        ranked = [choice["score"] for choice in chat(server, n=3, reward="short").json()["choices"]]
        assert ranked == sorted(ranked, reverse=True)
        refused(chat(server, best_of=2, reward="tiny"), 400, "reward")
        refused(chat(server, best_of=2, reward="none"), 404, "reward", "model_not_found")
        refused(server.post(CHAT, {"model": "short", "messages": HELLO}), 400, "model")


def test_embeddings(server):
    body = {"model": "base", "input": ["The furnace", "It is at sea"]}
    floats = schema.EmbeddingList.model_validate(server.post("/v1/embeddings", body).json())
    packed = server.post("/v1/embeddings", body | {"encoding_format": "base64"}).json()
    for row, coded in zip(floats.data, packed["data"], strict=True):
        unpacked = struct.unpack("<24f", base64.b64decode(coded["embedding"]))
        assert row.embedding == pytest.approx(list(unpacked)) and math.isclose(sum(x * x for x in unpacked), 1,
                                                                               abs_tol=1e-5)
    last = server.post("/v1/embeddings", body | {"pooling": "last"}).json()["data"][0]["embedding"]
    assert last != floats.data[0].embedding
    ids = server.post("/v1/embeddings", body | {"input": [[1, 2], [3]]}).json()
    assert ids["usage"] == {"prompt_tokens": 3, "total_tokens": 3} and [row["index"] for row in ids["data"]] == [0, 1]
    refused(server.post("/v1/embeddings", body | {"input": [5] * 257}), 400, "input", "context_length_exceeded")
    refused(server.post("/v1/embeddings", body | {"dimensions": 8}), 400, "dimensions", "unsupported_parameter")


def test_text_to_tokens_and_back(server):
    """Control tokens that somebody types stay text."""
    typed = "<|im_start|>é 鉄"
    told = server.post("/tokenize", {"model": "tiny", "prompt": typed}).json()
    assert told["count"] == len(told["tokens"]) > 5 and told["max_model_len"] == 256
    assert min(told["tokens"]) > 2
    assert server.post("/detokenize", {"model": "tiny", "tokens": told["tokens"]}).json() == {"prompt": typed}
    refused(server.post("/detokenize", {"model": "tiny", "tokens": [300]}), 400, "tokens")


def test_health_and_metrics(server):
    assert schema.Health.model_validate(server.get("/health").json()).status == "ok"
    answer = server.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = [line for line in answer.text.splitlines() if not line.startswith("#")]
    values = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}
    assert values['bloomery_free_slots{model="tiny"}'] == 8 and values['bloomery_open{model="tiny"}'] == 0
    assert values['bloomery_generated_tokens_total{model="tiny"}'] > 0


def test_errors_have_one_shape(server):
    message = refused(server.get("/v1/responses"), 404, None, "not_found")
    assert "/v1/chat/completions" in message
    refused(server.post("/v1/responses", {}), 404, None, "not_found")
    refused(server.get(CHAT), 405, None, "method_not_allowed")
    refused(httpx.post(server.url + CHAT, content="model=tiny"), 415, None, "unsupported_media_type")
    refused(httpx.post(server.url + CHAT, content="{", headers={"content-type": "application/json"}), 400, None,
            "invalid_json")
    refused(chat(server, model="base"), 400, "model")
    refused(chat(server, tools=[{}]), 400, "tools", "unsupported_parameter")


def test_a_queue_that_is_full_asks_to_come_back(tiny_folder):
    settings = ServeSettings(**SETTINGS | {"queue": 1, "slots": 2})
    with running(open_models([str(tiny_folder)], settings), settings) as server:
        server.worker.open["tiny"] += 2
        answer = chat(server, n=2)
        refused(answer, 429, None, "queue_full")
        assert answer.headers["retry-after"] == "1" and chat(server).status_code == 200


def test_a_lenient_server_says_what_it_ignored(tiny_folder):
    settings = ServeSettings(**SETTINGS | {"lenient": True})
    with running(open_models([str(tiny_folder)], settings), settings) as server:
        answer = chat(server, tools=[{}], max_token=1)
        assert answer.status_code == 200 and answer.headers["x-ignored-fields"] == "tools,max_token"


def test_an_engine_that_breaks_is_told_and_mended_by_a_reload(tiny_folder, monkeypatch):
    settings = ServeSettings(**SETTINGS)
    with running(open_models([str(tiny_folder)], settings), settings) as server:
        engine = server.worker.engines["tiny"]
        with monkeypatch.context() as broken:
            broken.setattr(engine, "step", lambda: 1 / 0)
            assert refused(chat(server), 500, None, "engine_error").startswith("tiny has failed")
        answer = server.get("/health")
        assert answer.status_code == 503 and "ZeroDivisionError" in answer.json()["models"]["tiny"]
        schema.Health.model_validate(answer.json())
        refused(chat(server), 500)
        assert server.post("/v1/models/tiny/reload", {}).json() == {"id": "tiny", "checkpoint": "", "changed": True}
        assert server.get("/health").status_code == 200 and chat(server).status_code == 200


def test_weights_are_read_again(tmp_path):
    settings, folder = ServeSettings(**SETTINGS), make_folder(tmp_path / "m")
    with running(open_models([f"tiny={folder}"], settings), settings) as server:
        before = chat(server).json()["choices"]
        make_folder(folder, seed=5)
        assert chat(server).json()["choices"] == before
        assert server.post("/v1/models/tiny/reload", {}).json()["changed"]
        assert chat(server).json()["choices"] != before
        refused(server.post("/v1/models/none/reload", {}), 404, "model")


def test_the_document_names_every_field_and_model(server):
    document = server.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    assert schemas["ChatRequest"]["properties"]["model"]["enum"] == ["tiny"]
    assert schemas["CompletionRequest"]["properties"]["model"]["enum"] == ["tiny", "base"]
    assert schemas["CompletionRequest"]["properties"]["n"]["anyOf"][0]["maximum"] == 8
    assert schemas["ChatRequest"]["additionalProperties"] is False and "ErrorBody" in schemas
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert ("requestBody" in operation) == (method == "post" and "reload" not in path)
            assert {"200", "401", "413"} <= set(operation["responses"])
