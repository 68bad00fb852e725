"""What is asked of the engine and what comes back: a request, its ticket, n completions, and events on the way.

A request says everything its answer depends on.  Who else is being served, in which slot and in which order is not
among it.
"""

from dataclasses import dataclass, field
from typing import Protocol

from bloomery.generate.sampling import GREEDY, Sampling, Token
from bloomery.generate.stopping import TextStream
from bloomery.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Request:
    """What continues `prompt`, `n` times, in at most `max_tokens` tokens; none is fine to have a prompt scored."""

    prompt: tuple[int, ...]
    max_tokens: int
    how: Sampling = GREEDY
    n: int = 1
    seed: int = 0
    ends: frozenset[int] = frozenset()      # ids that end it: generated and counted, never part of the text
    stops: tuple[str, ...] = ()             # strings that end it, found in the text, which is cut before them
    min_tokens: int = 0                     # no end id before so many tokens
    alternatives: int = 0                   # how many of the likeliest ids each token tells beside itself
    prompt_logps: bool = False              # score the prompt's own tokens too

    def __post_init__(self) -> None:
        for name, least in (("max_tokens", 0), ("n", 1), ("min_tokens", 0), ("alternatives", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be >= {least}, got {getattr(self, name)}")
        object.__setattr__(self, "prompt", tuple(self.prompt))      # prefixes are found by comparing tuples


@dataclass
class Completion:
    """One of the n. `finish` is None while it goes on, then "stop", "length", "cancelled" or "error"."""

    tokens: list[Token] = field(default_factory=list)
    text: str = ""
    finish: str | None = None
    matched: str | None = None              # the stop string it ended at

    @property
    def ids(self) -> list[int]:
        """The tokens without the end token."""
        ended = self.finish == "stop" and self.matched is None
        return [token.id for token in (self.tokens[:-1] if ended else self.tokens)]


class Text(Protocol):
    """Ids one by one to text that is safe to show (see `stopping.py`)."""

    stopped: str | None

    def push(self, id: int) -> str: ...
    def finish(self) -> str: ...


class Silence:
    """The text of an engine without a tokenizer: none."""

    stopped = None

    def push(self, id: int) -> str:
        return ""

    def finish(self) -> str:
        return ""


class Ticket:
    """A submitted request. Its completions grow while the engine steps."""

    def __init__(self, request: Request, tokenizer: Tokenizer | None = None):
        self.request = request
        self.completions = [Completion() for _ in range(request.n)]
        self.cached_tokens = 0                          # tokens of the prompt that were known from before
        self.prompt_tokens: list[Token] | None = [] if request.prompt_logps else None       # all but the first
        self.error: str | None = None
        self.paused = False                             # its rows rest from the next step on
        self._texts: list[Text] = [TextStream(tokenizer, request.stops) if tokenizer else Silence()
                                   for _ in range(request.n)]

    @property
    def finished(self) -> bool:
        return all(one.finish for one in self.completions)

    def add(self, index: int, token: Token, *, full: bool) -> "Event":
        """One more token of a completion; it is the last when the context is `full`."""
        one, text = self.completions[index], self._texts[index]
        one.tokens.append(token)
        piece = ""
        if token.id in self.request.ends:
            one.finish = "stop"
        else:
            piece = text.push(token.id)
            one.matched = text.stopped
            if one.matched is not None:
                one.finish = "stop"
            elif full or len(one.tokens) == self.request.max_tokens:
                one.finish = "length"
        return self._event(index, (token,), piece)

    def end(self, index: int, finish: str) -> "Event":
        """A completion is over without another token."""
        self.completions[index].finish = finish
        return self._event(index, (), "")

    def _event(self, index: int, tokens: tuple[Token, ...], piece: str) -> "Event":
        one = self.completions[index]
        if one.finish and one.matched is None:
            piece += self._texts[index].finish()
        one.text += piece
        return Event(self, index, tokens, piece, one.finish)


@dataclass(frozen=True)
class Event:
    """What a step brought to completion `index`: `text` is what may be shown now, nothing while it is held back."""

    ticket: Ticket
    index: int
    tokens: tuple[Token, ...]
    text: str
    finish: str | None
