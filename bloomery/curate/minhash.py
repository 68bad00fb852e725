"""Near duplicates: signatures, bands, and a look at every pair before anything is dropped.

`signatures.py` says what a text becomes and `lsh.py` which texts are worth comparing.  A candidate is not yet a
duplicate: of those that 14 bands of 8 find, a quarter have J < 0.7.  So each is compared, by signature and then by its
shingles, with the document that stands for it, which stays; nothing is dropped for being like something that is dropped
(`linkage = "star"`).  Chains of unseen pairs are what the papers did: `linkage = "chain"`, `verify = "none"`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from bloomery.core.config import Input
from bloomery.core.kernels import needed
from bloomery.curate.components import components
from bloomery.curate.lsh import Buckets, band_keys, buckets, edges, optimal
from bloomery.curate.scan import buffers
from bloomery.curate.signatures import permutations, signatures, units_of
from bloomery.curate.step import Findings, Gathered
from bloomery.curate.survivors import Survival, ranks, standing, survivors, told
from bloomery.text.tokenizer import load_tokenizer

MOST = 256                      # documents that stay a bucket with which a new one is compared
SLACK = {"none": np.inf, "signature": 1.5, "exact": 4.0}        # standard errors an estimate may fall short
CLOSE = 1e-12                   # rounding of a quotient
TEXT_SHARE = 64                 # of the memory, what the texts compared at a time may take


class MinHash(Survival):
    """What makes two documents near duplicates, and which of them stays."""

    preset: Literal["fineweb", "lee", "refinedweb", "gopher", "nemo", "data-juicer", "text-dedup"] | None = Field(
        None, description="values of a published pipeline, for what is not given")
    unit: Literal["word", "character", "token"] = Field("word", description="what shingles are made of")
    k: int = Field(5, ge=1, description="units a shingle")
    tokenizer: Input | None = Field(None, description="folder with the tokenizer, where the unit is a token")
    similarity: float = Field(0.8, gt=0, le=1, description="Jaccard similarity of near duplicates, at least")
    bands: int = Field(14, ge=0, description="bands of a signature; 0: bands and rows that suit the similarity best")
    rows: int = Field(8, ge=0, description="numbers a band")
    permutations: int = Field(112, ge=1, le=16384, description="numbers a signature at most, to choose bands from")
    verify: Literal["exact", "signature", "none"] = Field(
        "exact", description="compare shingles, or estimates, or take candidates for duplicates")
    linkage: Literal["star", "chain"] = Field(
        "star", description="duplicates of a document that stays, or also of those that go")
    seed: int = Field(1, ge=0, description="of the permutations")

    @model_validator(mode="before")
    @classmethod
    def filled(cls, given: Any) -> Any:
        """A preset's values below those given; an unknown preset is left for the field to refuse."""
        if not isinstance(given, dict):
            return given
        tuples = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
        return PRESETS.get(given.get("preset"), {}) | tuples    # behind a validator nobody else turns JSON's arrays

    @model_validator(mode="after")
    def consistent(self) -> "MinHash":
        if (self.bands == 0) != (self.rows == 0):
            raise ValueError("bands and rows are 0 together, or neither")
        if (self.unit == "token") != (self.tokenizer is not None):
            raise ValueError('unit = "token" and a tokenizer belong together')
        return self

    @property
    def shape(self) -> tuple[int, int]:
        """Bands and rows."""
        return (self.bands, self.rows) if self.bands else optimal(self.similarity, self.permutations)


class NearDuplicates:
    """The step: signatures are gathered, then every document is kept or has one that stays in its place."""

    def __init__(self, options: MinHash | None = None):
        self.options = options or MinHash()
        self.bands, self.rows = self.options.shape
        self.permutations = permutations(self.bands * self.rows, self.options.seed)
        self.tokenizer = load_tokenizer(Path(self.options.tokenizer)) if self.options.tokenizer else None

    def gather(self, batch: pa.RecordBatch) -> dict[str, np.ndarray]:
        column = batch.column("text")
        units, starts = units_of(column, self.options.unit, self.tokenizer)
        signature, key = signatures(units, starts, self.options.k, self.permutations)
        return standing(batch, self.options) | {"signature": signature, "key": key, "units": np.diff(starts),
                                                "size": np.diff(buffers(column)[1])}

    def decide(self, gathered: Gathered) -> Findings:
        rank = ranks(gathered["trust"], -gathered["quality"], -gathered["units"], gathered["key"])
        found = buckets(band_keys(gathered["signature"], self.bands, self.rows), gathered["units"] > 0)
        head, similarity = LINKAGES[self.options.linkage](self, gathered, found, rank)
        return Findings(["near_duplicate" if one else None for one in head != np.arange(len(head))],
                        {"near_duplicate_of": survivors(head, gathered), "near_duplicate_similarity": similarity},
                        account=told(head, gathered))

    @property
    def least(self) -> int:
        """In how many numbers the signatures of duplicates agree at least."""
        size, s = self.bands * self.rows, self.options.similarity
        slack = SLACK[self.options.verify] * np.sqrt(s * (1 - s) / size)
        return int(np.ceil(size * (s - slack) - CLOSE)) if slack < s else 0

    @property
    def alike(self) -> float:
        """How alike judged duplicates are at least."""
        at_least = self.options.similarity if self.options.verify == "exact" else self.least / (self.bands * self.rows)
        return at_least - CLOSE


# --- how alike two documents are ----------------------------------------------------------------------------------

def judged(step: NearDuplicates, gathered: Gathered, pairs: np.ndarray) -> np.ndarray:
    """(M,) how alike pairs (M, 2) are, as many at a time as memory allows."""
    sizes = np.cumsum(gathered["size"][pairs].sum(axis=1))
    parts = np.split(pairs, np.flatnonzero(np.diff(sizes // max(gathered.memory // TEXT_SHARE, 1))) + 1)
    return np.concatenate([JUDGES[step.options.verify](step, gathered, part) for part in parts])


def by_shingles(step: NearDuplicates, gathered: Gathered, pairs: np.ndarray) -> np.ndarray:
    """The Jaccard similarity of the texts themselves."""
    rows, places = np.unique(pairs, return_inverse=True)
    texts = pa.array(gathered.texts(rows), pa.large_string())
    units, starts = units_of(texts, step.options.unit, step.tokenizer)
    shingles, bounds, found = np.empty(len(units), np.uint64), np.empty(len(starts), np.int64), np.empty(len(pairs))
    needed("curate/minhash").shingle_sets(units, starts, step.options.k, shingles, bounds)
    needed("curate/minhash").jaccards(shingles, bounds, places.reshape(pairs.shape), found)
    return found


def by_signature(step: NearDuplicates, gathered: Gathered, pairs: np.ndarray) -> np.ndarray:
    """The share of numbers in which signatures agree."""
    a, b = (gathered["signature"][column] for column in pairs.T)
    return (a == b).mean(axis=1)


# --- who stays ----------------------------------------------------------------------------------------------------

def star(step: NearDuplicates, gathered: Gathered, found: Buckets, rank: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each document goes where a better one that stays is similar enough, (N,) which and how similar.

    Pairs are chosen as if estimates were right, then judged; those refused are not chosen again.  When all that is
    chosen has been judged, it is what judging every pair would have given: documents fall in the order of their ranks.
    """
    count = len(rank)
    refused, known, likeness = np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0)
    while True:
        head = needed("curate/minhash").stars(np.argsort(rank), found.of, found.start, gathered["signature"],
                                              step.least, refused, MOST)
        gone = np.flatnonzero(head != np.arange(count))
        chosen = head[gone] * count + gone
        new = np.setdiff1d(chosen, known)
        if not len(new):
            break
        known, likeness = np.append(known, new), np.append(
            likeness, judged(step, gathered, np.stack(np.divmod(new, count), axis=1)))
        order = np.argsort(known)
        known, likeness = known[order], likeness[order]
        refused = known[likeness < step.alike]
    similarity = np.ones(count)
    similarity[gone] = likeness[np.searchsorted(known, chosen)]
    return head, similarity


def chain(step: NearDuplicates, gathered: Gathered, found: Buckets, rank: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Components of the pairs (best of a bucket, member) that are similar enough; the best of a component stays."""
    pairs = edges(found, rank)
    likeness = judged(step, gathered, pairs)
    pairs, likeness = (each[likeness >= step.alike] for each in (pairs, likeness))
    by_rank = np.argsort(rank)
    head = by_rank[components(rank[pairs], len(rank))[rank]]
    similarity = np.ones(len(rank))
    np.minimum.at(similarity, pairs[:, 1], likeness)
    return head, similarity


JUDGES: dict[str, Callable[..., np.ndarray]] = {"exact": by_shingles, "signature": by_signature, "none": by_signature}
LINKAGES: dict[str, Callable[..., tuple[np.ndarray, np.ndarray]]] = {"star": star, "chain": chain}

# What papers and tools used. Where they verified nothing, so do their presets; RefinedWeb's and Lee's thresholds are
# near-identity: 1 - (1 - s^450)^20.
PRESETS: dict[str | None, dict[str, Any]] = {
    "fineweb": {"unit": "word", "k": 5, "bands": 14, "rows": 8, "verify": "none", "linkage": "chain"},
    "lee": {"unit": "word", "k": 5, "bands": 20, "rows": 450, "similarity": 0.8, "linkage": "chain"},
    "refinedweb": {"unit": "word", "k": 5, "bands": 20, "rows": 450, "verify": "none", "linkage": "chain"},
    "gopher": {"unit": "word", "k": 13, "bands": 0, "rows": 0, "permutations": 128, "similarity": 0.8},
    "nemo": {"unit": "character", "k": 24, "bands": 20, "rows": 13, "verify": "none", "linkage": "chain"},
    "data-juicer": {"unit": "word", "k": 5, "bands": 0, "rows": 0, "permutations": 256, "similarity": 0.7,
                    "verify": "none", "linkage": "chain"},
    "text-dedup": {"unit": "word", "k": 5, "bands": 0, "rows": 0, "permutations": 240, "similarity": 0.7}}
