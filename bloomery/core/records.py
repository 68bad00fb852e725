"""The records everything else is made of. Read this file first.

A `Document` is raw text.  A `Conversation` is what an assistant is taught with, a `Preference` what it is corrected
with, a `Ranking` several answers in their order, a `Rating` one without a pair, a `Problem` what it is tested or
rewarded on.  They are plain values: how they are read from files is `data/formats.py`, how they become token ids is
`text/chat.py`.
"""

import json
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Literal, get_args

Role = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[str, ...] = get_args(Role)


@dataclass(frozen=True, slots=True)
class Document:
    """One text and where it came from; `id` is a hash of the text, so equal texts have equal ids."""

    id: str
    text: str
    source: str = ""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a dialogue.

    `weight` multiplies the loss of an assistant's (None: as the mask says), `thinking` is what it reasons before it
    speaks, `tool_calls` what it asks of tools, as the OpenAI API writes them.
    """

    role: Role
    content: str
    weight: float | None = None
    thinking: str = ""
    tool_calls: tuple[dict, ...] = ()

    @property
    def spoken(self) -> str:
        """All the turn says, thoughts and calls in Qwen's and Hermes' tags: for templates with no form of their own."""
        thought = f"<think>\n{self.thinking}\n</think>\n\n" if self.thinking else ""
        calls = [f"<tool_call>\n{json.dumps(call.get('function', call), ensure_ascii=False)}\n</tool_call>"
                 for call in self.tool_calls]
        return thought + "\n".join([self.content][:bool(self.content)] + calls)


@dataclass(frozen=True, slots=True)
class Conversation:
    """A dialogue whose assistant turns are to be learned. `task` groups metrics, `id` names the row in errors.

    `weight` multiplies its loss, `split` and `source` are where it comes from, `tools` what the assistant may call.
    """

    messages: tuple[Message, ...]
    task: str = ""
    id: str = ""
    weight: float = 1.0
    split: str = ""
    source: str = ""
    tools: tuple[dict, ...] = ()


@dataclass(frozen=True, slots=True)
class Preference:
    """Two answers to one prompt, the better one first. `kind` groups metrics.

    `margin` is by how much it is better (None: nobody said), `share` the share of votes it got.
    """

    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    kind: str = ""
    id: str = ""
    margin: float | None = None
    share: float = 1.0


@dataclass(frozen=True, slots=True)
class Ranking:
    """Answers to one prompt and the rank of each, 1 being best; equal ranks are ties. `kind` groups metrics."""

    prompt: tuple[Message, ...]
    answers: tuple[str, ...]
    ranks: tuple[int, ...]
    kind: str = ""
    id: str = ""


@dataclass(frozen=True, slots=True)
class Rating:
    """One answer and whether people wanted it."""

    prompt: tuple[Message, ...]
    completion: str
    desirable: bool
    id: str = ""


@dataclass(frozen=True, slots=True)
class Problem:
    """A question with a known answer (or none, ""), for evaluation and for verifiable rewards.

    `columns` is the rest of its row, which reward functions are given.
    """

    prompt: tuple[Message, ...]
    answer: str
    task: str = ""
    id: str = ""
    columns: dict[str, Any] = field(default_factory=dict)


def text_id(text: str) -> str:
    """The content hash that names a document: 16 hex digits of BLAKE2b over its UTF-8 bytes."""
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def unit_hash(text: str, salt: str = "") -> float:
    """A number in [0, 1) that depends only on `text` and `salt`: how splits and sampling are drawn without state."""
    digest = blake2b(f"{salt}\0{text}".encode("utf-8", "surrogatepass"), digest_size=7).digest()
    return int.from_bytes(digest, "big") / 2**56
