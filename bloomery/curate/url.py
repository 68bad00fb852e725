"""Addresses that are not worth a look: blocked domains, blocked pages, and words that give a page away.

What a web corpus leaves out by address alone (Penedo et al. 2023, appendix G.1; FineWeb's URL filter): a domain and all
below it; a page; a letter sequence anywhere in the address, punctuation ignored; and words, of which one hard one or
soft ones that weigh `limit` together are too many.  No list comes with this tool: they age, and the well-known ones are
CC-BY-SA.  Lists are files with an entry a line; hosts files (`0.0.0.0 name`) and comments behind `#` are understood.

Domains and pages are kept as sorted 64-bit hashes: five million of them are 40 MB, and two addresses share a hash with
odds of n^2 / 2^65.
"""

import re
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from math import nan

import numpy as np
import pyarrow as pa
from pydantic import Field

from bloomery.core.config import Input, Settings
from bloomery.core.errors import InputError
from bloomery.curate.step import Findings

ADDRESS = re.compile(r"^(?:[a-z][a-z0-9+.-]*:)?(?://)?(?:[^/?#@\s]*@)?(\[[0-9a-f:.]*\]|[^/?#:\s]+)(?::\d*)?([^#\s]*)")
NO_WORD = re.compile(r"[\W_]+")
NUMBER = re.compile(r"\d+(?:\.\d+)?")

Files = Input | list[Input]


class Url(Settings):
    """Blocklists by address, each one or more files with an entry a line."""

    domains: Files = Field([], description="domains and subdomains that are blocked with all below them")
    pages: Files = Field([], description="single addresses that are blocked; scheme and www. do not matter")
    substrings: Files = Field([], description="letter sequences that block wherever they stand, punctuation ignored")
    hard: Files = Field([], description="words of which one blocks")
    soft: Files = Field([], description="words that count 1, or the number behind them")
    limit: float = Field(2, gt=0, description="what soft words together must count to block")


class Blocklist:
    """The step that drops documents by the address in their `url` column; without an address nothing is known."""

    def __init__(self, options: Url):
        self.domains = hashes(without_www(entry.removeprefix("*.")) for entry in entries(options.domains))
        self.pages = hashes(page(*parts(entry)) for entry in entries(options.pages))
        self.substrings = anywhere(NO_WORD.sub("", entry) for entry in entries(options.substrings))
        self.weights = dict(weighted(entry) for entry in entries(options.soft))
        self.weights |= dict.fromkeys(entries(options.hard), options.limit)
        self.limit = options.limit

    def examine(self, batch: pa.RecordBatch) -> Findings:
        if "url" not in batch.schema.names:
            return Findings([None] * batch.num_rows, {"url_score": np.full(batch.num_rows, nan)})
        urls = [(url or "").lower() for url in batch.column("url").to_pylist()]
        scores = np.array([self.score(url) if url else nan for url in urls])
        return Findings([self.reason(url, score) for url, score in zip(urls, scores, strict=True)],
                        {"url_score": scores})

    def reason(self, url: str, score: float) -> str | None:
        """Why an address in lower case is blocked."""
        host, rest = parts(url)
        labels = host.split(".")
        if holds(self.domains, (".".join(labels[i:]) for i in range(len(labels)))):
            return "blocked_domain"
        if holds(self.pages, [page(host, rest)]):
            return "blocked_page"
        if self.substrings.search(NO_WORD.sub("", url)):
            return "blocked_substring"
        return "blocked_words" if score >= self.limit else None

    def score(self, url: str) -> float:
        """What the words of an address count together, each as often as it stands there."""
        return sum(self.weights.get(word, 0.0) for word in NO_WORD.split(url))


def entries(files: str | list[str]) -> Iterator[str]:
    """The lines of list files in lower case; of a line in the form of a hosts file, the name."""
    for name in [files] if isinstance(files, str) else files:
        try:
            with open(name, encoding="utf-8", errors="replace") as lines:
                for line in lines:
                    entry = line.partition("#")[0].strip().lower()
                    if entry:
                        yield entry.split()[-1] if entry.startswith(("0.0.0.0 ", "127.0.0.1 ")) else entry
        except OSError as error:
            raise InputError("cannot read the blocklist", where=name, why=error.strerror or str(error),
                             hint="give a text file with an entry a line") from error


def weighted(entry: str) -> tuple[str, float]:
    """A word and what it counts: `casino 1.5`, or 1."""
    word, _, count = entry.partition(" ")
    return word, float(count) if NUMBER.fullmatch(count.strip()) else 1.0


def parts(url: str) -> tuple[str, str]:
    """The host without `www.`, and path with query."""
    found = ADDRESS.match(url)
    return (without_www(found[1].rstrip(".")), found[2]) if found else ("", "")


def without_www(host: str) -> str:
    return host.removeprefix("www.")


def page(host: str, rest: str) -> str:
    return f"{host}{rest}".rstrip("/")


def anywhere(sequences: Iterable[str]) -> re.Pattern:
    """Finds any of the sequences; of none, nothing."""
    return re.compile("|".join(map(re.escape, sorted(filter(None, sequences)))) or r"(?!)")


def hashed(text: str) -> int:
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def hashes(texts: Iterable[str]) -> np.ndarray:
    """The sorted hashes of texts, uint64."""
    return np.unique(np.fromiter(map(hashed, texts), np.uint64))


def holds(known: np.ndarray, texts: Iterable[str]) -> bool:
    """Whether one of the texts is among the sorted hashes."""
    if not len(known):
        return False
    wanted = np.array([hashed(text) for text in texts], np.uint64)
    places = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    return bool((known[places] == wanted).any())
