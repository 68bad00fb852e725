"""A model's own chat template: a Jinja program from its folder, run in a sandbox, masked by construction.

Before it runs, every control token's name in somebody's words gets a mark inside, so that what still reads as one
afterwards was written by the template; then the marks are taken out.  A dialogue is rendered up to each of the
assistant's turns, as a prompt: where the whole begins with that prompt, its words begin there and end with the first
control token that ends a turn.  A template that rewrites earlier turns has no such place, and training on one is an
error.  Left out: `strftime_now`, so that the same dialogue has the same ids on every day.
"""

import json
from collections.abc import Sequence
from itertools import chain
from types import SimpleNamespace

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from bloomery.core.errors import InputError
from bloomery.core.records import Message
from bloomery.text.templates import NOBODY, Piece, words
from bloomery.text.tokenizer import Tokenizer, anyof, named

LONGEST = 1 << 24               # characters a template may write: one that runs on is stopped
WORD = "X"                      # what the assistant says when the template is asked how it ends a turn


class Generation(Extension):
    """`{% generation %}`, transformers' mark around what the assistant says: read past, our masks need none."""

    tags = frozenset({"generation"})

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def environment() -> ImmutableSandboxedEnvironment:
    """As transformers sets it up."""
    def refuse(message: str) -> None:
        raise TemplateError(message)

    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                         extensions=[Generation, "jinja2.ext.loopcontrols"])
    made.filters["tojson"] = lambda value, indent=None, ensure_ascii=False, separators=None, sort_keys=False: \
        json.dumps(value, indent=indent, ensure_ascii=ensure_ascii, separators=separators, sort_keys=sort_keys)
    made.globals["raise_exception"] = refuse
    return made


def parted(name: str, mark: str) -> str:
    """A control token's name that is whole no more."""
    return name[:1] + mark + name[1:]


class JinjaTemplate:
    """The same face as `Template`, for one tokenizer."""

    name = "its own"

    def __init__(self, source: str, tokenizer: Tokenizer, *, where: str = ""):
        self.source, self.where = source, where
        added = tokenizer.backend.get_added_tokens_decoder().values()
        self.special = {token.content for token in added if token.special}
        self.control = self.special | {token.content for token in added
                                       if token.content in source and not token.content.isspace()}
        self._names = anyof(self.control)
        roles = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token")
        self._tokens = {role: name for role in roles if (name := named(tokenizer.settings or {}, role))}
        try:
            self._template = environment().from_string(source)
        except TemplateError as error:
            raise self._problem(error) from error
        asked = (Message("user", WORD),)
        begun, whole = self.text(asked, prompt=True), self.text((*asked, Message("assistant", WORD)))
        behind = whole[len(begun):].partition(WORD)[2]
        ends = [part for part in self._names.split(behind) if part in self.control]
        if not whole.startswith(begun) or not ends:
            raise InputError("this chat template cannot be used", where=where,
                             why="no control token ends the assistant's turn" if whole.startswith(begun) else
                                 "an answer does not begin where its prompt ends",
                             hint="mend it, or name one of our templates with template=")
        self.end, self._tail = ends[0], behind.partition(ends[0])[0]
        self.needs = tuple(sorted(self.control))

    def _problem(self, error: Exception) -> InputError:
        return InputError("the chat template cannot write this", where=self.where or "chat_template.jinja",
                          why=f"{type(error).__name__}: {error}",
                          hint="mend it, or name one of our templates with template=")

    def text(self, messages: tuple[Message, ...], *, prompt: bool = False, tools: Sequence[dict] = ()) -> str:
        """The dialogue as the template writes it, stopped where it runs on for ever."""
        said = [{"role": m.role, "content": m.content} | ({"reasoning_content": m.thinking} if m.thinking else {})
                | ({"tool_calls": list(m.tool_calls)} if m.tool_calls else {}) for m in messages]
        out, size = [], 0
        try:
            for part in self._template.generate(messages=said, add_generation_prompt=prompt, documents=None,
                                                tools=list(tools) or None, **self._tokens):
                out.append(part)
                size += len(part)
                if size > LONGEST:
                    raise OverflowError(f"it writes more than {LONGEST} characters")
        except Exception as error:                          # anybody's program: whatever it raises
            raise self._problem(error) from error
        return "".join(out)

    def pieces(self, messages: tuple[Message, ...], *, prompt: bool = False,
               tools: Sequence[dict] = ()) -> list[Piece]:
        """A dialogue, cut where the assistant begins to speak and behind what it says."""
        for message in messages:
            words(message)
        told = json.dumps(tools, ensure_ascii=False)
        mark = next(c for c in map(chr, range(0xE000, 0xF900)) if not any(c in m.spoken for m in messages)
                    and c not in told)
        marked = tuple(self._marked(message, mark) for message in messages)
        known = json.loads(self._names.sub(lambda found: parted(found[0], mark), told))
        whole, out, place = self.text(marked, prompt=prompt, tools=known), [], 0
        for i, message in enumerate(messages):
            if message.role != "assistant":
                continue
            begun = self.text(marked[:i], prompt=True, tools=known)
            if len(begun) < place or not whole.startswith(begun):
                continue                                    # rewritten later on: nobody says it, see `Renderer`
            stop = whole.find(self.end, len(begun))
            if stop < 0:
                continue
            stop += len(self.end)
            out += [self._cut(whole[place:len(begun)], mark), self._cut(whole[len(begun):stop], mark, i)]
            place = stop
        return [*chain.from_iterable(out), *self._cut(whole[place:], mark)]

    def said(self, text: str, turn: int = 0, *, ends: bool = True) -> list[Piece]:
        """What the assistant says, and unless it is broken off what ends its turn."""
        said = [p for p in self.pieces((Message("user", WORD), Message("assistant", text))) if p.turn == 1]
        if not ends:
            said = said[:-1]
            kept = said[-1].text.removesuffix(self._tail)       # what the template trims is put back
            said[-1] = Piece(kept + text[len(text.rstrip()):] if kept == kept.rstrip() else kept, turn=1)
        return [piece._replace(turn=turn) for piece in said]

    def _marked(self, message: Message, mark: str) -> Message:
        """Words in which no control token's name is whole. The assistant's may hold those that are not special."""
        names = anyof(self.special | {self.end}) if message.role == "assistant" else self._names
        said, thought, calls = (names.sub(lambda found: parted(found[0], mark), text) for text in (
            message.content, message.thinking, json.dumps(message.tool_calls, ensure_ascii=False)))
        return SimpleNamespace(role=message.role, content=said, thinking=thought, tool_calls=json.loads(calls))

    def _cut(self, text: str, mark: str, turn: int = NOBODY) -> list[Piece]:
        """Text as pieces, without the marks; a name that was marked is text."""
        return [Piece(part.replace(mark, ""), part in self.control, turn) for part in self._names.split(text) if part]

    def jinja(self) -> str:
        return self.source
