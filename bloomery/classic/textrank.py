"""TextRank: keywords and summaries by PageRank, without any training (Mihalcea and Tarau 2004).

A word matters if it stands beside words that matter; a sentence, if it shares words with sentences that matter:

    similarity(a, b) = (word types in both) / (ln |a| + ln |b|)         |a|: tokens; 0 where the logarithms are

Scores sum to 1; the paper's are these times the number of nodes.  The paper keeps nouns and adjectives, as `tagged`
does; without a tagger all words are kept but stop words.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import groupby

import numpy as np

from bloomery.classic.pagerank import pagerank, ranked
from bloomery.classic.postag import Tagger, tokens
from bloomery.classic.sparse import library
from bloomery.classic.words import STOP_WORDS, WORD, sentences, words

TOKEN = re.compile(r"\w+|[^\w\s'’-]|\n\s*\n")         # a word, or what stands between two phrases
NOMINAL = ("NOUN", "PROPN", "ADJ", "NN", "JJ")
Keep = Callable[[str], Iterable[tuple[str, bool]]]      # a text's words and marks in order, and which can be keywords


def word_scores(said: Sequence[str], *, stop: Collection[str] = STOP_WORDS, window: int = 2,
                damping: float = 0.85) -> dict[str, float]:
    """The rank of every word that is no stop word, best first.

    Two words are linked, both ways and once, where they stand less than `window` apart after stop words are gone.
    """
    if window < 2:
        raise ValueError(f"window must be at least 2, got {window}")
    kept = [word for word in said if word not in stop]
    if not kept:
        return {}
    numbers = {word: number for number, word in enumerate(dict.fromkeys(kept))}
    ids = np.array([numbers[word] for word in kept])                                            # (N,)
    pairs = np.concatenate([np.stack([ids[:-apart], ids[apart:]]) for apart in range(1, min(window, len(ids)))]
                           or [np.zeros((2, 0), int)], axis=1)
    pairs = pairs[:, pairs[0] != pairs[1]]
    both = np.concatenate([pairs, pairs[::-1]], axis=1)
    links = library().coo_array((np.ones(both.shape[1]), tuple(both)), (len(numbers),) * 2).tocsr()
    links.data[:] = 1                                       # however often they stand together
    return ranked(dict(zip(numbers, pagerank(links, alpha=damping).tolist())))


def keywords(text: str, k: int = 10, *, window: int = 2, keep: Keep | None = None) -> list[tuple[str, float]]:
    """At most k key phrases of a text: neighbours among the best third of its words become one phrase (section 3.2).

    A phrase scores the sum of its words, and is found where they stand in a row, no mark and no other word between.
    """
    read = list((keep or content)(text))
    scores = word_scores([word for word, kept in read if kept], stop=(), window=window)
    chosen = set(list(scores)[:-(-len(scores) // 3)])
    phrases: dict[str, float] = {}
    for kept, run in groupby(read, lambda one: one[1] and one[0] in chosen):
        if kept:
            phrase = list(dict.fromkeys(word for word, _ in run))
            phrases[" ".join(phrase)] = sum(scores[word] for word in phrase)
    return list(ranked(phrases).items())[:k]


def content(text: str) -> Iterator[tuple[str, bool]]:
    """Words and marks, of which the words that are no stop words are kept."""
    for token in TOKEN.findall(text.lower()):
        yield token, token not in STOP_WORDS and bool(WORD.fullmatch(token))


def tagged(tagger: Tagger) -> Keep:
    """Keep nouns and adjectives, by universal tags or the Penn treebank's, as the paper does."""
    def keep(text: str) -> Iterator[tuple[str, bool]]:
        for sentence in sentences(text):
            spoken = tokens(sentence)
            for word, tag in zip(spoken, tagger.tag(spoken)):
                yield word.lower(), tag.startswith(NOMINAL) and word.lower() not in STOP_WORDS
            yield "", False
    return keep


def similarities(said: Sequence[Sequence[str]]):
    """How alike sentences are, (S, S) sparse and symmetric, nothing on the diagonal."""
    sparse = library()
    types = [sorted(set(own)) for own in said]
    numbers = {word: number for number, word in enumerate(sorted({word for own in types for word in own}))}
    rows = np.repeat(np.arange(len(types)), [len(own) for own in types])
    columns = np.array([numbers[word] for own in types for word in own], np.int64)
    holds = sparse.csr_array((np.ones(len(rows)), (rows, columns)), (len(types), len(numbers)))
    shared = (holds @ holds.T).tocoo()
    logs = np.log([max(len(own), 1) for own in said])
    bottom = logs[shared.row] + logs[shared.col]
    kept = (shared.row != shared.col) & (bottom > 0)
    return sparse.coo_array((shared.data[kept] / bottom[kept], (shared.row[kept], shared.col[kept])),
                            shared.shape).tocsr()


def sentence_scores(said: Sequence[Sequence[str]], *, damping: float = 0.85) -> np.ndarray:
    """The rank of each sentence, (S,), from its words."""
    return pagerank(similarities(said), alpha=damping)


def summarise(text: str, k: int = 3, *, stop: Collection[str] = STOP_WORDS) -> list[str]:
    """The k sentences of a text that rank highest, in the order in which they stand there.

    Stop words link everything with everything, so they are left out.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    found = sentences(text)
    if len(found) <= k:
        return found
    scores = sentence_scores([[word for word in words(one) if word not in stop] for one in found])
    best = list(ranked(dict(enumerate(scores.tolist()))))[:k]
    return [found[place] for place in sorted(best)]
