"""Streams of a live server: the same text as the whole answer, seed by seed, and slots freed when readers go."""

import threading
import time
from contextlib import suppress

import httpx2 as httpx
import pytest
from live_server import SETTINGS, running, sse

from bloomery.serve.models import open_models
from bloomery.serve.settings import ServeSettings

HELLO = [{"role": "user", "content": "Where is the boat?"}]


def streamed(server, path, body):
    with httpx.stream("POST", server.url + path, json=body | {"stream": True}, timeout=60) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-cache" and answer.headers["x-accel-buffering"] == "no"
        chunks = sse(b"".join(answer.iter_bytes()).decode())
    assert chunks.pop() == "[DONE]"
    return chunks


def by_index(chunks):
    found: dict[int, list[dict]] = {}
    for chunk in chunks:
        for choice in chunk["choices"]:
            found.setdefault(choice["index"], []).append(choice)
    return found


@pytest.mark.parametrize("more", [
    {}, {"n": 3}, {"temperature": 0}, {"stop": ["e", "or"]}, {"top_p": 0.8, "top_k": 50, "n": 2},
    {"logprobs": True, "top_logprobs": 3}, {"min_tokens": 10, "repetition_penalty": 1.3},
    {"logit_bias": {"5": 4}, "bad_words": ["the"]}, {"max_tokens": 1}, {"ignore_eos": True}], ids=str)
@pytest.mark.parametrize("seed", [1, 2])
def test_a_chat_stream_is_the_whole_answer(server, more, seed):
    body = {"model": "tiny", "messages": HELLO, "max_tokens": 20, "seed": seed} | more
    whole = server.post("/v1/chat/completions", body).json()
    chunks = streamed(server, "/v1/chat/completions", body | {"stream_options": {"include_usage": True}})
    assert chunks[-1]["choices"] == [] and chunks[-1]["usage"]["completion_tokens"] == \
        whole["usage"]["completion_tokens"]
    choices = by_index(chunks)
    assert len(choices) == len(whole["choices"]) == body.get("n", 1)
    for choice in whole["choices"]:
        own = choices[choice["index"]]
        assert "".join(part["delta"].get("content", "") for part in own) == choice["message"]["content"]
        assert [part["finish_reason"] for part in own if part["finish_reason"]] == [choice["finish_reason"]]
        assert [part["delta"]["role"] for part in own if "role" in part["delta"]] == ["assistant"]
        if choice["logprobs"]:
            told = [token for part in own if part["logprobs"] for token in part["logprobs"]["content"]]
            assert told == choice["logprobs"]["content"]


@pytest.mark.parametrize("more", [
    {"prompt": "The furnace"}, {"prompt": ["The", "old boat", ""], "n": 2}, {"prompt": [40, 41, 42]},
    {"prompt": [[40, 41], [7]], "echo": True, "logprobs": 2}, {"prompt": "At sea", "echo": True, "stop": " "},
    {"prompt": "In winter", "max_tokens": 0, "echo": True, "logprobs": 1}], ids=str)
def test_a_completion_stream_is_the_whole_answer(server, more):
    body = {"model": "base", "max_tokens": 9, "seed": 4} | more
    whole = server.post("/v1/completions", body).json()
    choices = by_index(streamed(server, "/v1/completions", body))
    assert sorted(choices) == [choice["index"] for choice in whole["choices"]]
    for choice in whole["choices"]:
        own = choices[choice["index"]]
        assert "".join(part["text"] for part in own) == choice["text"]
        assert own[-1]["finish_reason"] == choice["finish_reason"]
        for name, values in (choice["logprobs"] or {}).items():
            assert [value for part in own if part["logprobs"] for value in part["logprobs"][name]] == values


def test_the_same_bytes_beside_others(server):
    """What a request is answered does not depend on who else is being served."""
    body = {"model": "tiny", "messages": HELLO, "max_tokens": 30, "seed": 9, "logprobs": True, "top_logprobs": 2}
    alone = server.post("/v1/chat/completions", body).json()["choices"]
    found = []

    def ask(more):
        found.append((more, server.post("/v1/chat/completions", body | more).json()["choices"]))

    others = [threading.Thread(target=ask, args=({"seed": 9 + i % 3, "n": 1 + i % 2},)) for i in range(12)]
    for thread in others:
        thread.start()
    for thread in others:
        thread.join()
    same = [choices for more, choices in found if more == {"seed": 9, "n": 1}]
    assert len(same) == 2 and all(choices == alone for choices in same)


def test_a_failure_in_mid_stream_is_told_in_it(tiny_folder):
    settings = ServeSettings(**SETTINGS)
    with running(open_models([str(tiny_folder)], settings), settings) as failing:
        engine = failing.worker.engines["tiny"]
        step, rounds = engine.step, iter(range(9))
        engine.step = lambda: step() if next(rounds, None) is not None else 1 / 0
        chunks = streamed(failing, "/v1/chat/completions", {"model": "tiny", "messages": HELLO, "ignore_eos": True})
        assert chunks[-1]["error"]["code"] == "engine_error" and len(chunks) > 3
        assert failing.get("/health").status_code == 503


def until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.01)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_slots(server, stream):
    body = {"model": "tiny", "messages": HELLO, "ignore_eos": True, "n": 4, "stream": stream}
    engine = server.worker.engines["tiny"]
    before = engine.stats["generated_tokens"]
    with suppress(httpx.HTTPError), httpx.stream("POST", server.url + "/v1/chat/completions", json=body,
                                                 timeout=0.3) as answer:
        next(answer.iter_bytes())
    until(lambda: engine.free_slots == 8 and server.worker.open["tiny"] == 0)
    assert engine.stats["generated_tokens"] > before
    assert server.post("/v1/chat/completions", body | {"stream": False, "n": 1, "max_tokens": 2}).status_code == 200
