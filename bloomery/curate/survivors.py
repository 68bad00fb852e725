"""Which of several duplicates stays, and what a duplicate filter has to tell of them.

The best has the source named first in `sources`, then the highest `quality`, then the longest text, then the least hash
of it, then the first place: an order of the documents alone, whatever threads or shards found them.
"""

from collections import Counter
from collections.abc import Iterator
from os.path import commonprefix

import numpy as np
import pyarrow as pa
from pydantic import Field

from bloomery.core.config import Settings
from bloomery.core.errors import InputError
from bloomery.curate.components import clusters
from bloomery.curate.scan import buffers
from bloomery.curate.step import Gathered

NAMED = 64                                      # bytes kept of a source's name
SHOWN, MEMBERS, EXCERPT = 10, 3, 900            # clusters told, members of each, characters of a member
BEFORE = 200                                    # of them before the first that not all members share


class Survival(Settings):
    """Who stays where several documents are the same; what is equal in all stays in source order."""

    sources: tuple[str, ...] = Field((), description="beginnings of the names of sources, the most trusted first")
    quality: str = Field("", description="a column of numbers; the document with the higher one stays")


def standing(batch: pa.RecordBatch, options: Survival) -> dict[str, np.ndarray]:
    """What `ranks` and `told` need to know of each document of a batch, fixed in width."""
    names = batch.column("source").to_pylist()
    trust = [next((place for place, begin in enumerate(options.sources) if name.startswith(begin)),
                  len(options.sources)) for name in names]
    if options.quality and options.quality not in batch.schema.names:
        raise InputError(f"no column {options.quality}", why=f"documents have {', '.join(batch.schema.names)}",
                         hint="leave quality out, or name a step before this one that writes it")
    quality = batch.column(options.quality).to_numpy(zero_copy_only=False) if options.quality else \
        np.zeros(batch.num_rows)
    data, edges = buffers(batch.column("id").cast(pa.large_string()))
    return {"id": data[edges[0]:edges[-1]], "id_size": np.diff(edges), "trust": np.array(trust, np.int32),
            "quality": np.nan_to_num(quality.astype(np.float64), nan=-np.inf),
            "source": np.array([name.encode()[-NAMED:] for name in names], f"S{NAMED}")}


def ranks(*keys: np.ndarray) -> np.ndarray:
    """(N,) the place of each document, 0 the best: the least first key, of equals the least second, then the first."""
    order = np.lexsort(keys[::-1])
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return rank


def ids(gathered: Gathered, rows: np.ndarray) -> list[str]:
    """The ids of documents by their number."""
    stops = np.cumsum(gathered["id_size"])[rows]
    return [bytes(gathered["id"][stop - size:stop]).decode() for stop, size in zip(stops, gathered["id_size"][rows])]


def survivors(head: np.ndarray, gathered: Gathered) -> np.ndarray:
    """(N,) ids of the documents that stay in the place of others, empty for those that stay themselves."""
    gone = np.flatnonzero(head != np.arange(len(head)))
    names = np.array([name.encode() for name in ids(gathered, head[gone])] or [b""])
    found = np.zeros(len(head), names.dtype)
    found[gone] = names[:len(gone)]
    return found


def told(head: np.ndarray, gathered: Gathered) -> dict:
    """How many clusters there are of each size, and how the members of the largest begin."""
    found = clusters(head)
    sizes = Counter(map(len, found))
    return {"clusters": len(found), "sizes": {str(size): sizes[size] for size in sorted(sizes)},
            "largest": list(largest(found[:SHOWN], head, gathered))}


def largest(found: list[np.ndarray], head: np.ndarray, gathered: Gathered) -> Iterator[dict]:
    """Members of clusters, that which stays first; their texts from shortly before they begin to differ."""
    for cluster in found:
        kept = int(head[cluster[0]])
        members = np.array([kept, *cluster[cluster != kept][:MEMBERS - 1]])
        texts, sources = gathered.texts(members), gathered["source"][members]
        same = len(commonprefix(texts))
        begin = max(same - BEFORE, 0) if any(len(text) > same for text in texts) else 0
        yield {"documents": len(cluster), "begin": begin, "members": [
            {"id": name, "source": source.decode(errors="replace"), "text": text[begin:begin + EXCERPT]}
            for name, source, text in zip(ids(gathered, members), sources, texts)]}
