"""The one renderer: messages to token ids, with the loss mask made on the way.

Training, sampling, evaluation and serving all come through here, so what is trained is what is asked.  Each piece
knows while it is written whether the assistant says it: content and its turn-end are trained, headers and other
people's words are not.  No mask is ever found by searching rendered text.
"""

from dataclasses import dataclass

from bloomery.core.errors import InputError
from bloomery.core.records import ROLES, Message
from bloomery.text.templates import TEMPLATES, Template
from bloomery.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Rendered:
    """Token ids and, beside each, whether the assistant says it."""

    ids: list[int]
    trained: list[bool]


class Renderer:
    """Renders with one tokenizer and one template."""

    def __init__(self, tokenizer: Tokenizer, template: str | Template = "chatml"):
        if isinstance(template, str) and template not in TEMPLATES:
            raise InputError(f"unknown chat template {template!r}", hint=f"use one of {', '.join(TEMPLATES)}")
        self.tokenizer = tokenizer
        self.template = TEMPLATES[template] if isinstance(template, str) else template

    def _control(self, name: str) -> list[int]:
        return [self.tokenizer.backend.token_to_id(name)] if name else []

    def _header(self, role: str) -> list[int]:
        if role not in ROLES:
            raise InputError(f"unknown role {role!r}", why=f"roles are {', '.join(ROLES)}")
        return [*self._control(self.template.start), *self.tokenizer.encode(self.template.header.format(role=role))]

    def conversation(self, messages: tuple[Message, ...]) -> Rendered:
        """A whole dialogue; every assistant turn is trained, its turn-end included."""
        ids, trained = self._control(self.template.begin), [False] * bool(self.template.begin)
        for message in messages:
            header = self._header(message.role)
            said = self.answer(message.content)
            after = self.tokenizer.encode(self.template.after)
            ids += [*header, *said, *after]
            trained += [*[False] * len(header), *[message.role == "assistant"] * len(said), *[False] * len(after)]
        return Rendered(ids, trained)

    def prompt(self, messages: tuple[Message, ...]) -> list[int]:
        """A dialogue up to where the assistant speaks next: what is fed before sampling."""
        return [*self.conversation(messages).ids, *self._header("assistant")]

    def answer(self, content: str) -> list[int]:
        """A message's content and the turn-end: exactly what sampling after `prompt` should produce."""
        text = content.strip()
        if not text:
            raise InputError("an empty message cannot be rendered", why="there would be nothing to read or to learn")
        return [*self.tokenizer.encode(text), *self._control(self.template.end)]
