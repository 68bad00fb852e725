"""The records everything else is made of. Read this file first.

A `Document` is raw text.  A `Conversation` is what an assistant is taught with, a `Preference` what it is corrected
with, a `Rating` the same without a pair, a `Problem` what it is tested or rewarded on.  They are plain values: how
they are read from files is `data/formats.py`, how they become token ids is `text/chat.py`.
"""

from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal, get_args

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
    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """A dialogue whose assistant turns are to be learned. `task` groups metrics, `id` names the row in errors."""

    messages: tuple[Message, ...]
    task: str = ""
    id: str = ""


@dataclass(frozen=True, slots=True)
class Preference:
    """Two answers to one prompt, the better one first. `kind` groups metrics."""

    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
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
    """A question with a known answer, for evaluation and for verifiable rewards."""

    prompt: tuple[Message, ...]
    answer: str
    task: str = ""
    id: str = ""


def text_id(text: str) -> str:
    """The content hash that names a document: 16 hex digits of BLAKE2b over its UTF-8 bytes."""
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def unit_hash(text: str, salt: str = "") -> float:
    """A number in [0, 1) that depends only on `text` and `salt`: how splits and sampling are drawn without state."""
    digest = blake2b(f"{salt}\0{text}".encode("utf-8", "surrogatepass"), digest_size=7).digest()
    return int.from_bytes(digest, "big") / 2**56
