"""Exact duplicates: documents, addresses, paragraphs or runs of sentences that are the same once simplified.

128 bits of XXH3 (of BLAKE2b where xxhash is not installed) stand for a text: two unequal ones of n collide with odds of
n^2 / 2^129.  Hashes are sorted and of equal ones the best stays (`survivors.py`), by default the first in source order.

    documents       white space collapsed, or as they stand, or CCNet's way
    addresses       the document that had a URL first stays
    paragraphs      lines, CCNet's way: lower case, digits to 0, no punctuation (Wenzek et al. 2020, section 3.1)
    sentences       any three in a row that stood before somewhere (Raffel et al. 2020, section 2.2)

Of the last two what is repeated is cut, and a document goes that has too little left.  Blank parts repeat nothing.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator
from hashlib import blake2b
from typing import Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from bloomery.core.config import Settings
from bloomery.core.errors import InputError
from bloomery.curate.edits import Edits
from bloomery.curate.step import Findings, Gathered
from bloomery.curate.survivors import Survival, ranks, standing, told

try:
    from xxhash import xxh3_128_digest as digest
except ModuleNotFoundError:
    def digest(content: bytes) -> bytes:
        """16 bytes of BLAKE2b, which is in the standard library and slower."""
        return blake2b(content, digest_size=16).digest()


LINES = re.compile(r"\n+")
SENTENCES = re.compile(r"""[.!?]+["')\]”’]*\s+|[。！？]+\s*|\n+\s*""")


class Folded(dict[int, str | None]):
    """What CCNet hashes a character as: lower case, every digit 0, no punctuation and nothing invisible."""

    def __missing__(self, code: int) -> str | None:
        character = chr(code)
        kind = unicodedata.category(character)
        self[code] = found = "0" if kind == "Nd" else None if kind[0] in "PC" else character.lower()
        return found


FOLDED = Folded({9: " ", 10: " ", 13: " "})
NORMALISED: dict[str, Callable[[str], str]] = {
    "none": lambda text: text,
    "space": lambda text: " ".join(text.split()),
    "ccnet": lambda text: " ".join(text.translate(FOLDED).split())}


class Equality(Survival):
    """When two documents are the same, and which of them stays."""

    by: Literal["text", "url"] = Field("text", description="what is compared")
    normalise: Literal["none", "space", "ccnet"] = Field(
        "space", description="as they stand, with white space collapsed, or lower case without digits and punctuation")


class Addresses(Equality):
    """One document an address: the one that had it first stays."""

    by: Literal["text", "url"] = Field("url", description="what is compared")


class Repeats(Settings):
    """Which parts of documents are cut where they stood before."""

    part: Literal["paragraph", "sentence"] = Field("paragraph", description="what documents are cut into")
    together: int = Field(1, ge=1, description="parts in a row that must be repeated")
    normalise: Literal["none", "space", "ccnet"] = Field("ccnet", description="how parts are compared")
    min_words: int = Field(1, ge=0, description="words a document must have left after a cut")


class Sentences(Repeats):
    """C4's: three sentences in a row, and 50 words left."""

    part: Literal["paragraph", "sentence"] = Field("sentence", description="what documents are cut into")
    together: int = Field(3, ge=1, description="sentences in a row that must be repeated")
    min_words: int = Field(50, ge=0, description="words a document must have left after a cut")


def digests(texts: list[str]) -> np.ndarray:
    """(N, 2) uint64: 128 bits of each text."""
    return np.frombuffer(b"".join(digest(text.encode("utf-8", "surrogatepass")) for text in texts),
                         np.uint64).reshape(-1, 2)


def first_of_equals(hashes: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """(N,) of each row the one of least rank (N,) whose hash (N, 2) is the same."""
    order = np.lexsort((rank, hashes[:, 1], hashes[:, 0]))
    opens = np.concatenate(([True], (np.diff(hashes[order], axis=0) != 0).any(axis=1)))[:len(order)]
    head = np.empty(len(order), np.int64)
    head[order] = order[np.flatnonzero(opens)][np.cumsum(opens) - 1]
    return head


class Exact:
    """The step that keeps one document of each text, or of each address."""

    def __init__(self, options: Equality | None = None):
        self.options = options or Equality()

    def gather(self, batch: pa.RecordBatch) -> dict[str, np.ndarray]:
        if self.options.by == "text":
            values = batch.column("text").to_pylist()
        elif "url" in batch.schema.names:
            values = [url or "" for url in batch.column("url").to_pylist()]
        else:
            raise InputError("documents without an address cannot be compared by it", why="there is no column url",
                             hint='leave out by = "url"')
        found = list(map(NORMALISED[self.options.normalise if self.options.by == "text" else "space"], values))
        return standing(batch, self.options) | {"hash": digests(found), "blank": np.array([not one for one in found])}

    def decide(self, gathered: Gathered) -> Findings:
        head = first_of_equals(gathered["hash"], ranks(gathered["trust"], -gathered["quality"]))
        if self.options.by == "url":
            head = np.where(gathered["blank"], np.arange(len(head)), head)
        reason = {"text": "exact_duplicate", "url": "url_duplicate"}[self.options.by]
        return Findings([reason if one else None for one in head != np.arange(len(head))],
                        account=told(head, gathered))


class Repeated:
    """The step that cuts what stood before, in this document or in one before it in source order."""

    def __init__(self, options: Repeats | None = None):
        self.options = options or Repeats()

    def gather(self, batch: pa.RecordBatch) -> dict[str, np.ndarray]:
        parts = [list(pieces(text, self.options.part, NORMALISED[self.options.normalise]))
                 for text in batch.column("text").to_pylist()]
        flat = [part for document in parts for part in document]
        return {"hash": digests([text for _, _, text in flat]),
                "parts": np.array([len(document) for document in parts], np.int64),
                "words": np.array([text.count(" ") + 1 for _, _, text in flat], np.int64),
                "span": np.array([(start, stop) for start, stop, _ in flat], np.int64).reshape(-1, 2)}

    def decide(self, gathered: Gathered) -> Findings:
        together, count = self.options.together, len(gathered["hash"])
        document = np.repeat(np.arange(gathered.documents), gathered["parts"])
        whole = np.flatnonzero(document[:count - together + 1] == document[together - 1:]) if count >= together else \
            np.empty(0, np.int64)                           # where as many parts of one document begin
        runs = np.zeros((len(whole), 2), np.uint64)
        for offset in range(together):
            runs = runs * np.uint64(0x9E3779B97F4A7C15) + gathered["hash"][whole + offset]
        repeated = first_of_equals(runs, np.arange(len(whole))) != np.arange(len(whole))
        gone = np.zeros(count, bool)
        for offset in range(together):
            gone[whole[repeated] + offset] = True
        left = np.bincount(document, gathered["words"] * ~gone, gathered.documents)
        cut = np.bincount(document, gone, gathered.documents) > 0
        reasons = [f"repeated_{self.options.part}s" if one else None for one in cut & (left < self.options.min_words)]
        return Findings(reasons, edits=Edits.cuts(document[gone], *gathered["span"][gone].T),
                        account={"parts": count, "parts_cut": int(gone.sum())})


def pieces(text: str, part: str, normal: Callable[[str], str]) -> Iterator[tuple[int, int, str]]:
    """The parts of a text that are not blank: first byte, byte behind, and what is compared; they tile the text."""
    ends = [found.end() for found in (LINES if part == "paragraph" else SENTENCES).finditer(text)]
    begin = position = 0
    for end in [*ends, len(text)]:
        size = len(text[begin:end].encode("utf-8", "surrogatepass"))
        if compared := normal(text[begin:end]):
            yield position, position + size, compared
        begin, position = end, position + size
