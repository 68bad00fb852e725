"""Answers in OpenAI's two shapes, whole and in chunks; what is streamed adds up to what is answered whole.

The chunks of a choice: one with the role (chat), contents without it, one with `delta: {}` and the finish reason; last
of all, if asked for, one without choices that has the usage; then `data: [DONE]`.  Every chunk has the same id, and
choices are told apart by index.  A failure in mid-stream is an event with `error`, and then `[DONE]`.
"""

import json
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from bloomery import __version__
from bloomery.generate.request import Completion, Ticket
from bloomery.generate.sampling import Token
from bloomery.serve.spelling import Spelling

DONE = "data: [DONE]\n\n"
PING = ": still at it\n\n"


def event(value: dict[str, Any]) -> str:
    """One server-sent event, in ASCII: clients that split lines as Python does would else split at U+2028, too."""
    return f"data: {json.dumps(value, separators=(',', ':'))}\n\n"


@dataclass
class Said:
    """A finished answer, whoever wrote it: the engine or a beam search."""

    text: str
    finish: str
    tokens: list[Token] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)            # the end token included
    score: float | None = None

    @classmethod
    def of(cls, done: Completion) -> "Said":
        return cls(done.text, done.finish, done.tokens, [token.id for token in done.tokens])


@dataclass
class Writer:
    """Writes the answers to one HTTP request; `reports` log-probabilities, `ids` token ids."""

    model: str
    spelling: Spelling
    reports: bool = False
    ids: bool = False
    ends: frozenset[int] = frozenset()
    usage: bool = False                     # a last chunk with usage; the others then have "usage": null
    id: str = ""
    created: int = field(default_factory=lambda: int(time.time()))

    prefix, object, piece_object = "", "", ""

    def __post_init__(self) -> None:
        self.id = self.id or f"{self.prefix}-{uuid4().hex}"

    def head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model,
                "system_fingerprint": f"bloomery-{__version__}"}

    def whole(self, choices: list[dict], usage: dict, **more: Any) -> dict[str, Any]:
        return {**self.head(self.object), "choices": choices, "usage": usage,
                **{name: value for name, value in more.items() if value is not None}}

    def chunk(self, *choices: dict) -> str:
        return event({**self.head(self.piece_object), "choices": choices, **({"usage": None} if self.usage else {})})

    def counts(self, usage: dict) -> str:
        return event({**self.head(self.piece_object), "choices": [], "usage": usage})

    def _extra(self, ids: Iterable[int], score: float | None = None) -> dict[str, Any]:
        return {**({"token_ids": list(ids)} if self.ids else {}), **({} if score is None else {"score": score})}


class ChatWriter(Writer):
    """POST /v1/chat/completions. The end token is no part of what was said, nor of its log-probabilities."""

    prefix, object, piece_object = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def _logprobs(self, tokens: Iterable[Token]) -> dict | None:
        return self.spelling.chat(token for token in tokens if token.id not in self.ends) if self.reports else None

    def choice(self, index: int, said: Said) -> dict[str, Any]:
        return {"index": index, "message": {"role": "assistant", "content": said.text, "refusal": None},
                "logprobs": self._logprobs(said.tokens), "finish_reason": said.finish,
                **self._extra(said.ids, said.score)}

    def opening(self, index: int) -> str:
        return self.chunk({"index": index, "delta": {"role": "assistant", "content": ""}, "logprobs": None,
                           "finish_reason": None})

    def piece(self, index: int, text: str, tokens: list[Token]) -> str:
        return self.chunk({"index": index, "delta": {"content": text}, "logprobs": self._logprobs(tokens),
                           "finish_reason": None, **self._extra(token.id for token in tokens)})

    def closing(self, index: int, finish: str) -> str:
        return self.chunk({"index": index, "delta": {}, "logprobs": None, "finish_reason": finish})


class TextWriter(Writer):
    """POST /v1/completions; with echo a choice begins with its prompt."""

    prefix, object, piece_object = "cmpl", "text_completion", "text_completion"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.echoed: dict[int, tuple[tuple[int, ...], Ticket]] = {}         # by choice, where the prompt is echoed
        self.offsets: dict[int, int] = {}

    def echo(self, index: int, ticket: Ticket) -> None:
        self.echoed[index] = ticket.request.prompt, ticket

    def _before(self, index: int) -> tuple[str, int | None, list[Token]]:
        """The echoed text, its first id and the tokens after that."""
        if index not in self.echoed:
            return "", None, []
        prompt, ticket = self.echoed.pop(index)
        return self.spelling.tokenizer.decode(prompt), prompt[0], ticket.prompt_tokens or []

    def _choice(self, index: int, text: str, tokens: list[Token], finish: str | None, **extra: Any) -> dict[str, Any]:
        before, first, scored = self._before(index)
        logprobs, offset = None, self.offsets.get(index, 0)
        if self.reports:
            logprobs = self.spelling.completion(first, [*scored, *tokens], offset)
            self.offsets[index] = offset + len(before) + sum(
                len(name) for name, token in zip(logprobs["tokens"][len(scored) + (first is not None):], tokens,
                                                 strict=True) if token.id not in self.spelling.control)
        return {"index": index, "text": before + text, "logprobs": logprobs, "finish_reason": finish, **extra}

    def choice(self, index: int, said: Said) -> dict[str, Any]:
        return self._choice(index, said.text, said.tokens, said.finish, **self._extra(said.ids, said.score))

    def opening(self, index: int) -> str:
        return self.chunk(self._choice(index, "", [], None)) if index in self.echoed else ""

    def piece(self, index: int, text: str, tokens: list[Token]) -> str:
        return self.chunk(self._choice(index, text, tokens, None, **self._extra(token.id for token in tokens)))

    def closing(self, index: int, finish: str) -> str:
        return self.chunk({"index": index, "text": "", "logprobs": None, "finish_reason": finish})


def usage(tickets: list[Ticket]) -> dict[str, Any]:
    """Tokens of prompts and of everything written, end tokens and candidates that were not kept included."""
    prompt = sum(len(ticket.request.prompt) for ticket in tickets)
    written = sum(len(one.tokens) for ticket in tickets for one in ticket.completions)
    return counted(prompt, written, sum(ticket.cached_tokens for ticket in tickets))


def counted(prompt: int, written: int, cached: int = 0) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written,
            "prompt_tokens_details": {"cached_tokens": cached}}


async def streamed(writer: Writer, tickets: list[Ticket], events: AsyncIterator[tuple[int, Any] | None]) -> \
        AsyncIterator[str]:
    """The whole body of a stream. `events` are (which ticket, event), None where there was silence.

    Tokens whose text is held back are reported with the text that follows.
    """
    starts = [0]
    for ticket in tickets:
        starts.append(starts[-1] + ticket.request.n)
    opened: set[int] = set()
    held: dict[int, list[Token]] = {}
    async for found in events:
        if found is None:
            yield PING
            continue
        number, happened = found
        index = starts[number] + happened.index
        if number not in opened:            # openai's accumulator wants choice 0 to come first
            opened.add(number)
            for each in range(starts[number], starts[number + 1]):
                yield writer.opening(each)
        tokens = [*held.pop(index, ()), *happened.tokens]
        if happened.text or (happened.finish and tokens and (writer.reports or writer.ids)):
            yield writer.piece(index, happened.text, tokens)
        elif tokens:
            held[index] = tokens
        if happened.finish:
            yield writer.closing(index, happened.finish)
    if writer.usage:
        yield writer.counts(usage(tickets))
    yield DONE
