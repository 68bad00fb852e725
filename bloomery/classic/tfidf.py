"""TF-IDF: a document as a vector of its terms, each by how often it stands there and how few documents have it.

    w(t, d) = tf(f) idf(t),     f: how often t stands in d       Salton and Buckley 1988; idf in `idf.py`

Documents are then compared by the cosine of their vectors.  A high weight may come from a rare term or from a frequent
one.  Matrices are SciPy's, sparse: a term that a document lacks weighs nothing in it, whatever the form of tf.
"""

import math
from collections.abc import Callable, Hashable, Iterable, Sequence

import numpy as np

from bloomery.classic.idf import IDF, Log
from bloomery.classic.postings import best, count
from bloomery.classic.sparse import library


def raw(f: np.ndarray, length: np.ndarray, most: np.ndarray, log: Log) -> np.ndarray:
    return f


def relative(f: np.ndarray, length: np.ndarray, most: np.ndarray, log: Log) -> np.ndarray:
    """The share of the document's `length` terms."""
    return f / np.maximum(length, 1)


def boolean(f: np.ndarray, length: np.ndarray, most: np.ndarray, log: Log) -> np.ndarray:
    return f > 0


def log1p(f: np.ndarray, length: np.ndarray, most: np.ndarray, log: Log) -> np.ndarray:
    return log(1 + f)


def sublinear(f: np.ndarray, length: np.ndarray, most: np.ndarray, log: Log) -> np.ndarray:
    """1 + log f, and 0 of 0."""
    return np.where(f > 0, 1 + log(np.maximum(f, 1)), 0)


def augmented(f: np.ndarray, length: np.ndarray, most: np.ndarray, log: Log) -> np.ndarray:
    """From 1/2 to 1, which is what the document's most frequent term has, which stands there `most` times."""
    return 0.5 + 0.5 * f / np.maximum(most, 1)


TF = {"raw": raw, "relative": relative, "boolean": boolean, "log1p": log1p, "sublinear": sublinear,
      "augmented": augmented}
NORMS: dict[str, Callable] = {"l2": lambda squares, sums: np.sqrt(squares), "l1": lambda squares, sums: sums,
                              "none": lambda squares, sums: np.ones_like(sums)}


class TfIdf:
    """Vectors of documents, ready to be searched. `matrix` is (N, V), its columns `terms` in sorted order.

    With the defaults the numbers are those of scikit-learn's TfidfVectorizer.  `base` is that of every logarithm.
    """

    def __init__(self, documents: Iterable[Sequence[Hashable]], *, tf: str = "raw", idf: str = "smooth",
                 norm: str = "l2", base: float = math.e):
        for name, given, known in (("tf", tf, TF), ("idf", idf, IDF), ("norm", norm, NORMS)):
            if given not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {given}")
        if base <= 1:
            raise ValueError(f"base must be more than 1, got {base}")
        postings = count(documents)
        self.log: Log = np.log if base == math.e else lambda x: np.log(x) / math.log(base)
        self.tf, self.norm, self.terms, self.numbers = TF[tf], NORMS[norm], postings.terms, postings.numbers
        self.idf = IDF[idf](postings.frequencies, len(postings.lengths), self.log)              # (V,)
        self.matrix = self._weighed(library().csc_array(
            (postings.counts, postings.documents, postings.starts), (len(postings.lengths), len(self.terms))),
            postings.lengths)
        self._lengths = np.sqrt(self.matrix.power(2).sum(axis=1))                               # (N,)

    def _weighed(self, counts, lengths: np.ndarray):
        """Counts (M, V) as weights; `lengths` of the documents are with the terms nobody knows."""
        most = counts.max(axis=1).toarray() if counts.shape[1] else lengths
        document = counts.indices
        weights = counts.astype(float)
        weights.data = self.tf(counts.data, lengths[document], most[document], self.log) * \
            np.repeat(self.idf, np.diff(counts.indptr))
        size = self.norm(weights.power(2).sum(axis=1), abs(weights).sum(axis=1))
        weights.data /= np.where(size, size, 1)[document]                                       # an empty one stays so
        return weights

    def vectors(self, documents: Sequence[Sequence[Hashable]]):
        """Other documents in the same terms, (M, V) sparse: a term that was never seen weighs nothing."""
        kept = [[self.numbers[term] for term in document if term in self.numbers] for document in documents]
        rows = np.repeat(np.arange(len(kept)), [len(document) for document in kept])
        columns = np.array([number for document in kept for number in document], np.int64)
        counts = library().coo_array((np.ones(len(rows), np.int64), (rows, columns)), (len(kept), len(self.terms)))
        return self._weighed(counts.tocsc(), np.array([len(document) for document in documents], np.int64))

    def scores(self, query: Sequence[Hashable]) -> np.ndarray:
        """The cosine between a query and every document, (N,): 0 where they share nothing or one is empty."""
        vector = self.vectors([query]).tocsr()
        dots = (vector @ self.matrix.T).toarray()[0]
        size = self._lengths * np.sqrt(vector.power(2).sum())
        return dots / np.where(size > 0, size, 1)

    def search(self, query: Sequence[Hashable], k: int = 10) -> list[tuple[int, float]]:
        """The k documents nearest to a query that share a term with it, with their cosines, best first."""
        scores = self.scores(query)
        found = np.flatnonzero(scores)
        found = found[best(scores[found], k)]
        return list(zip(found.tolist(), scores[found].tolist()))

    def keywords(self, document: Sequence[Hashable], k: int = 10) -> list[tuple[Hashable, float]]:
        """The k known terms of a document that weigh most, best first; of equal ones the first in sorted order."""
        weights = self.vectors([document]).toarray()[0]
        return [(self.terms[i], float(weights[i])) for i in best(weights, k) if weights[i] > 0] if self.terms else []
