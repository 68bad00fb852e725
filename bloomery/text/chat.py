"""The one renderer: messages to token ids, with the loss weights made on the way.

Training, sampling, evaluation and serving all come through here, so what is trained is what is asked.  Each piece
knows while it is written whether the assistant says it: content and its turn-end are trained, headers and other
people's words are not.  No mask is ever found by searching rendered text.

What stands between two control tokens is encoded at once, as it would be in the whole text; only where the assistant
begins to speak is a cut, because there sampling begins.  So a prompt and its answer are always the conversation.
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from bloomery.core.errors import InputError
from bloomery.core.records import Message
from bloomery.text.jinja import JinjaTemplate
from bloomery.text.templates import NOBODY, TEMPLATES, Piece, Template, words
from bloomery.text.tokenizer import Tokenizer, load_tokenizer

TRAIN = ("assistant", "last", "all")
TRUNCATION = ("drop", "keep_start", "keep_end", "error")


@dataclass(frozen=True)
class Rendered:
    """Token ids and, beside each, the weight of its loss. The first `fixed` begin every dialogue."""

    ids: list[int]
    weights: list[float]
    fixed: int = 0

    @property
    def trained(self) -> list[bool]:
        return [weight != 0 for weight in self.weights]


class Renderer:
    """Renders with one tokenizer and one template.

    `train`: what the assistant says in every turn ("assistant"), in its last ("last"), or all tokens ("all").  A
    message's own `weight` goes before that.  `told` is False where the template is a guess: nobody named one.
    """

    def __init__(self, tokenizer: Tokenizer, template: str | Template | JinjaTemplate = "chatml", *,
                 train: str = "assistant", told: bool = True):
        if isinstance(template, str) and template not in TEMPLATES:
            raise InputError(f"unknown chat template {template!r}", hint=f"use one of {', '.join(TEMPLATES)}")
        if train not in TRAIN:
            raise ValueError(f"train must be one of {', '.join(TRAIN)}, got {train!r}")
        self.tokenizer, self.train, self.told = tokenizer, train, told
        self.template = template if isinstance(template, JinjaTemplate) else bound(template, tokenizer)
        if missing := [name for name in self.template.needs if not tokenizer.has(name)]:
            raise InputError(f"template {self.template.name} needs the control token {missing[0]}",
                             why="the tokenizer has none of that name", hint=f"it has what {fitting(tokenizer)} need")
        tokenizer.guard(self.template.needs)
        self.end = tokenizer.token(self.template.end)
        self._asked = self.template.pieces((Message("user", "?"),), prompt=True)[-1].control

    @property
    def ends(self) -> frozenset[int]:
        """Ids with which an answer ends: the template's turn-end, and the end of a text."""
        return frozenset((self.end, self.tokenizer.eos))

    @property
    def control(self) -> frozenset[int]:
        """Ids of the control tokens around what people say."""
        written = self.template.pieces(tuple(Message(role, "?") for role in ("user", "assistant") * 2))
        return frozenset(self.tokenizer.token(piece.text) for piece in written if piece.control)

    def answers(self, ends: Collection[int]) -> bool:
        """Whether a model whose generations end so was taught to answer, and does not merely continue text."""
        return self.end in ends and (self.told or self.end != self.tokenizer.eos)

    def conversation(self, messages: tuple[Message, ...], *, tools: Sequence[dict] = ()) -> Rendered:
        """A whole dialogue with the weight of every token; each trained turn's end is trained with it.

        `tools` are the functions that may be called, as chat templates want them.
        """
        pieces = self.template.pieces(messages, tools=tools)
        spoken = [i for i, message in enumerate(messages) if message.role == "assistant"]
        weights = {i: float(self.train != "last" or i == spoken[-1]) if messages[i].weight is None else
                   float(messages[i].weight) for i in spoken}
        if others := [i for i, message in enumerate(messages) if message.weight and i not in weights]:
            raise InputError(f"message {others[0] + 1} has a weight", why="it is not the assistant's",
                             hint="take the weight out, or train all tokens")
        lost = sorted({i for i in spoken if weights[i]} - {piece.turn for piece in pieces})
        if lost and self.train != "all":
            raise InputError(f"the assistant's turn in message {lost[0] + 1} cannot be trained",
                             why="the model's own template writes it otherwise once the dialogue goes on",
                             hint="train the last turns only (train_on=last), or name one of our templates")
        weights[NOBODY] = float(self.train == "all")
        ids, turns = self._ids(pieces)
        fixed = next((place for place, piece in enumerate(pieces) if not piece.control), len(pieces))
        return Rendered(ids, [weights.get(turn, 0.0) for turn in turns], min(fixed, 1))

    def prompt(self, messages: tuple[Message, ...], *, continues: bool = False,
               tools: Sequence[dict] = ()) -> list[int]:
        """A dialogue up to where the assistant speaks next: what is fed before sampling.

        If it `continues`, up to where its last message breaks off.
        """
        begun = messages[-1].spoken.lstrip() if continues and messages and messages[-1].role == "assistant" else None
        pieces = self.template.pieces(messages if begun is None else messages[:-1], prompt=True, tools=tools)
        return self._ids([*pieces, *(self.template.said(begun, ends=False) if begun else ())])[0]

    def answer(self, content: str) -> list[int]:
        """A message's content and the turn-end: exactly what sampling after `prompt` should produce."""
        said = self.template.said(words(Message("assistant", content)))
        return self._ids(said, before=self._asked)[0]

    def _ids(self, pieces: list[Piece], before: bool | None = None) -> tuple[list[int], list[int]]:
        """Ids of pieces and whose each is: text between two control tokens at once, cut where the speaker changes.

        `before` says what stands before them: a control token (True), text (False), nothing (None).
        """
        ids, turns = [], []
        for (control, turn), group in groupby(pieces, key=lambda piece: piece[1:]):
            if control:
                found = [self.tokenizer.token(piece.text) for piece in group]
            else:
                text = "".join(piece.text for piece in group)
                found = self.tokenizer.piece(text, behind=before is True, inside=before is False)
            ids += found
            turns += [turn] * len(found)
            before = control
        return ids, turns


def bound(template: str | Template, tokenizer: Tokenizer) -> Template:
    """A template with the tokenizer's own tokens in it."""
    found = TEMPLATES[template] if isinstance(template, str) else template
    return found.bound(tokenizer.name(tokenizer.bos), tokenizer.name(tokenizer.eos))


def fitting(tokenizer: Tokenizer) -> str:
    """The templates whose control tokens a tokenizer has."""
    return ", ".join(name for name in TEMPLATES if all(map(tokenizer.has, bound(name, tokenizer).needs)))


def fit(rendered: Rendered, limit: int, policy: str = "drop") -> Rendered | None:
    """A dialogue of at most `limit` tokens, or None where it is dropped: it is too long, or nothing trained is left.

    "keep_end" keeps the token every dialogue begins with; "error" raises `InputError` for one that is too long.
    """
    if policy not in TRUNCATION or limit < 2:
        raise ValueError(f"a limit of 2 or more and one of {', '.join(TRUNCATION)} are needed, got {limit}, {policy!r}")
    ids, weights, over = rendered.ids, rendered.weights, len(rendered.ids) - limit
    if over <= 0:
        return rendered
    if policy == "error":
        raise InputError(f"a conversation of {len(ids)} tokens is longer than {limit}",
                         hint=f"truncation= one of {', '.join(TRUNCATION[:-1])}, or a longer context")
    kept = {"keep_start": slice(limit, None), "keep_end": slice(rendered.fixed, rendered.fixed + over)}.get(policy)
    if kept is None:
        return None
    ids, weights = list(ids), list(weights)
    del ids[kept], weights[kept]
    return Rendered(ids, weights, rendered.fixed) if any(weights[1:]) else None


def load_renderer(folder: Path, template: str = "auto", *, train: str = "assistant") -> Renderer:
    """The renderer of a model's or a tokenizer's folder.

    "auto" is the folder's own template: one of ours where it is that, else the Jinja program.  A folder without one
    gets "chatml" if its tokenizer has the tokens, else "plain".
    """
    tokenizer, source = load_tokenizer(folder), own_template(folder)
    told = bool(source) or template != "auto"
    if template == "auto":
        known = next((name for name in TEMPLATES if bound(name, tokenizer).jinja() == source), "")
        template = known or JinjaTemplate(source, tokenizer, where=str(folder)) if source else \
            next(name for name in ("chatml", "plain") if all(map(tokenizer.has, bound(name, tokenizer).needs)))
    return Renderer(tokenizer, template, train=train, told=told)


def own_template(folder: Path) -> str:
    """The chat template that lies in a folder, "" for none; of several the one called default."""
    path, settings = Path(folder) / "chat_template.jinja", Path(folder) / "tokenizer_config.json"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    found = json.loads(settings.read_text(encoding="utf-8")).get("chat_template") if settings.is_file() else ""
    if isinstance(found, list):
        found = next((entry["template"] for entry in found if entry["name"] == "default"), "")
    return found or ""
