"""Exact duplicates: texts that are equal once white space is collapsed; the first in source order stays.

16 bytes of BLAKE2b a document are remembered (two unequal texts collide with odds of n^2 / 2^129), so memory grows with
the number of distinct documents, about 100 bytes each, and not with their size.  Near duplicates are not looked for.
"""

from hashlib import blake2b

import pyarrow as pa


class Exact:
    """The duplicate filter of one run: remembers what it has seen."""

    def __init__(self) -> None:
        self.seen: set[bytes] = set()

    def reasons(self, batch: pa.RecordBatch) -> list[str | None]:
        return [self.reason(text) for text in batch.column("text").to_pylist()]

    def reason(self, text: str) -> str | None:
        digest = normalised_hash(text)
        if digest in self.seen:
            return "exact_duplicate"
        self.seen.add(digest)
        return None


def normalised_hash(text: str) -> bytes:
    """16 bytes that only depend on the words of a text and their order."""
    return blake2b(" ".join(text.split()).encode("utf-8"), digest_size=16).digest()
