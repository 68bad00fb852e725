"""What is streamed adds up to what is answered whole, in the grammar strict clients assert."""

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from live_server import sse

from bloomery.generate.request import Event, Request, Ticket
from bloomery.generate.sampling import Token
from bloomery.serve import schema
from bloomery.serve.chunks import PING, ChatWriter, Said, TextWriter, streamed, usage
from bloomery.serve.spelling import Spelling, byte_letters
from bloomery.text.tokenizer import SMALLEST, train_tokenizer


@pytest.fixture(scope="module")
def spelling():
    """One token a byte."""
    return Spelling(train_tokenizer(["x"], vocabulary=SMALLEST))


def written(spelling, texts, prompt="ab", order=None, finish="length", **request):
    """A finished ticket whose completions say `texts`, and its events in the `order` of completions."""
    encode, tokenizer = spelling.tokenizer.encode, spelling.tokenizer
    ends = frozenset({tokenizer.turn_end})
    asked = Request(prompt=tuple(encode(prompt)), max_tokens=100, n=len(texts), ends=ends, **request)
    ticket, events = Ticket(asked, tokenizer), []
    left = [[*encode(text), *([tokenizer.turn_end] if finish == "stop" else [])] for text in texts]
    for index in [*(order or []), *(i for i, ids in enumerate(left) for _ in range(200))]:
        if left[index]:
            token = left[index].pop(0)
            last = not left[index] and finish == "length"
            events.append(ticket.add(index, Token(token, -0.5, -0.25, ((token, -0.25), (3, -2.0))), full=last))
    return ticket, events


def stream(writer, tickets, events):
    async def coming():
        for event in events:
            yield None if event is None else (tickets.index(event.ticket), event)

    async def whole():
        return "".join([piece async for piece in streamed(writer, tickets, coming())])
    return asyncio.run(whole())


TEXTS = st.lists(st.text(st.sampled_from("aé鉄🔥 \n\x00\u2028"), max_size=6).filter(bool), min_size=1, max_size=3)


@given(TEXTS, st.lists(st.integers(0, 2), max_size=30), st.sampled_from(["stop", "length"]), st.booleans())
def test_chat_chunks_add_up_to_the_whole_answer(spelling, texts, order, finish, reports):
    ticket, events = written(spelling, texts, order=[i % len(texts) for i in order], finish=finish)
    options = {"reports": reports, "ids": reports, "ends": ticket.request.ends, "id": "x", "created": 1}
    writer = ChatWriter("m", spelling, usage=True, **options)
    chunks = sse(stream(writer, [ticket], events))
    assert chunks.pop() == "[DONE]"
    last = chunks.pop()
    assert last["choices"] == [] and last["usage"] == usage([ticket])
    assert {chunk["id"] for chunk in chunks} == {last["id"]} and all(chunk["usage"] is None for chunk in chunks)
    whole = ChatWriter("m", spelling, **options)
    for index, text in enumerate(texts):
        own = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == index]
        assert own[0]["delta"] == {"role": "assistant", "content": ""} and own[-1]["delta"] == {}
        assert [choice["finish_reason"] for choice in own] == [None] * (len(own) - 1) + [finish]
        assert all(list(choice["delta"]) == ["content"] for choice in own[1:-1])
        choice = whole.choice(index, Said.of(ticket.completions[index]))
        assert "".join(choice["delta"]["content"] for choice in own[1:-1]) == choice["message"]["content"] == text
        if reports:
            content = [part for choice in own if choice["logprobs"] for part in choice["logprobs"]["content"]]
            assert content == choice["logprobs"]["content"] and len(content) == len(text.encode())
            assert b"".join(bytes(part["bytes"]) for part in content).decode() == text
            assert [i for choice in own for i in choice.get("token_ids", [])] == choice["token_ids"]
        schema.ChatChoice.model_validate(choice)


@given(TEXTS, st.sampled_from(["stop", "length"]), st.booleans())
def test_completion_chunks_add_up_too(spelling, texts, finish, echo):
    ticket, events = written(spelling, texts, finish=finish, prompt_logps=True)
    ticket.prompt_tokens = [Token(ticket.request.prompt[1], -1.0, -1.5, ((5, -1.0),))]
    streaming, whole = (TextWriter("m", spelling, reports=True, id="x", created=1) for _ in range(2))
    for writer in (streaming, whole):
        for index in range(len(texts) if echo else 0):
            writer.echo(index, ticket)
    chunks = sse(stream(streaming, [ticket], events))[:-1]
    for index, text in enumerate(texts):
        own = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == index]
        choice = whole.choice(index, Said.of(ticket.completions[index]))
        assert "".join(part["text"] for part in own) == choice["text"] == ("ab" if echo else "") + text
        for name, values in choice["logprobs"].items():
            assert [v for part in own if part["logprobs"] for v in part["logprobs"][name]] == values
        first = choice["logprobs"]["token_logprobs"][:2]
        assert first == ([None, -1.5] if echo else [-0.25] * len(first))
        assert choice["logprobs"]["text_offset"][:3] == sorted(choice["logprobs"]["text_offset"][:3])
        schema.TextChoice.model_validate(choice)


def test_silence_is_a_comment_and_no_event(spelling):
    ticket, events = written(spelling, ["a"])
    body = stream(ChatWriter("m", spelling), [ticket], [None, *events])
    assert body.startswith(PING) and PING.startswith(":") and len(sse(body)) == 4


def test_the_end_token_counts_and_is_no_part_of_a_chat_answer(spelling):
    ticket, events = written(spelling, ["ab"], finish="stop")
    said = Said.of(ticket.completions[0])
    chat = ChatWriter("m", spelling, reports=True, ids=True, ends=ticket.request.ends).choice(0, said)
    text = TextWriter("m", spelling, reports=True).choice(0, said)
    assert [part["token"] for part in chat["logprobs"]["content"]] == ["a", "b"] and len(chat["token_ids"]) == 3
    assert text["logprobs"]["tokens"] == ["a", "b", "<|im_end|>"] and text["logprobs"]["text_offset"] == [0, 1, 2]
    assert usage([ticket])["completion_tokens"] == 3


def test_every_byte_has_a_letter_and_odd_ones_are_told_apart(spelling):
    assert sorted(byte_letters().values()) == list(range(256))
    names = {spelling.distinct(token) for token in range(SMALLEST)}
    assert len(names) == SMALLEST and "bytes:\\xe9" in names and " " in names


def test_an_impossible_token_is_still_json(spelling):
    ticket, _ = written(spelling, ["a"])
    token = Token(5, -0.1, float("-inf"), ((6, float("-inf")),))
    said = Said("a", "length", [token], [5])
    for writer in (ChatWriter("m", spelling, reports=True), TextWriter("m", spelling, reports=True)):
        assert "-9999.0" in json.dumps(writer.choice(0, said), allow_nan=False)


def test_events_without_text_are_not_lost(spelling):
    """Tokens whose text is held back are reported with the next piece, or before the end."""
    ticket, events = written(spelling, ["é"])
    assert [event.text for event in events] == ["", "é"]
    chunks = sse(stream(ChatWriter("m", spelling, reports=True), [ticket], events))
    pieces = [chunk["choices"][0] for chunk in chunks[1:-2]]
    assert len(pieces) == 1 and len(pieces[0]["logprobs"]["content"]) == 2
    held = [events[0], Event(ticket, 0, (), "", "length")]
    chunks = sse(stream(ChatWriter("m", spelling, reports=True), [ticket], held))
    assert [len(chunk["choices"][0]["logprobs"]["content"]) for chunk in chunks[1:-2]] == [1]
