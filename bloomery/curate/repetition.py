"""How much of a document occurred before: Gopher's repetition rules (Rae et al. 2021, table A1).

Lines and paragraphs count by number and by characters; a frequent n-gram is one that takes a large share of the text by
itself, n 2 to 4; duplicate n-grams are all that occur again, n 5 to 10, each with its own limit.  N-grams are found in
the word hashes of one scan.  The paper leaves open what is counted, and `counting` says whom to follow:

                 lines, paragraphs     of two equal    top n-gram, of          duplicate n-grams, of
    paper        if not blank          one repeats     as datatrove            as datatrove
    datatrove    blank ones too        one repeats     with spaces, text       left to right, a hit is skipped, text
    dolma        blank ones too        both do         words, words            each that recurs, all n-grams
    dclm         if not blank          both do         longest of ties, words  words in any of them, words

Of equally frequent n-grams the first is the top one; another rule changed 14.7 % of decisions.  n-grams are compared
word by word (datatrove joins the words, so "ab c" repeats "a bc" there).
"""

from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from bloomery.core.kernels import kernel
from bloomery.curate.heuristics import Counting, Limits, Range, Split, Table, ratio
from bloomery.curate.scan import Count, Pieces, Scan, scanned

TOP, DUPLICATE = range(2, 5), range(5, 11)
VARIANTS = {"paper": 0, "datatrove": 0, "dolma": 1, "dclm": 2}                  # of n-grams


class Repetition(Limits):
    """Shares of what occurred before (Rae et al. 2021, table A1)."""

    counting: Counting = Field("paper", description="whose reading of the paper: paper, datatrove, dolma or dclm")
    words: Split = "white"
    duplicate_lines: Range | None = Field((0, 0.3), description="share of lines that repeat one before")
    duplicate_paragraphs: Range | None = Field((0, 0.3), description="share of paragraphs that repeat one before")
    duplicate_line_characters: Range | None = Field((0, 0.2), description="share of characters in repeated lines")
    duplicate_paragraph_characters: Range | None = Field((0, 0.2), description="share of characters in repeated "
                                                                                "paragraphs")
    top_2_gram: Range | None = Field(None, description="share of characters in the top 2-gram; paper 0 to 0.2")
    top_3_gram: Range | None = Field(None, description="the same of 3-grams; paper 0 to 0.18")
    top_4_gram: Range | None = Field(None, description="the same of 4-grams; paper 0 to 0.16")
    duplicate_5_gram: Range | None = Field(None, description="share of characters in repeated 5-grams; paper 0 to 0.15")
    duplicate_6_gram: Range | None = Field(None, description="the same of 6-grams; paper 0 to 0.14")
    duplicate_7_gram: Range | None = Field(None, description="the same of 7-grams; paper 0 to 0.13")
    duplicate_8_gram: Range | None = Field(None, description="the same of 8-grams; paper 0 to 0.12")
    duplicate_9_gram: Range | None = Field(None, description="the same of 9-grams; paper 0 to 0.11")
    duplicate_10_gram: Range | None = Field(None, description="the same of 10-grams; paper 0 to 0.1")


TABLE_A1 = {f"top_{n}_gram": (0, limit) for n, limit in zip(TOP, (.20, .18, .16))} | {
    f"duplicate_{n}_gram": (0, limit) for n, limit in zip(DUPLICATE, (.15, .14, .13, .12, .11, .10))}


def repetition_statistics(batch: pa.RecordBatch, limits: Repetition) -> Table:
    """What `Repetition` limits; n-grams only where one of their rules is on."""
    ranges = limits.ranges()
    found = scanned(batch.column("text"), split=limits.words)
    text, shares = found[Count.CHARACTERS], {}
    for name, pieces in (("line", found.rows), ("paragraph", found.parts)):
        counts = repeats(pieces, blank=limits.counting == "datatrove")
        whole, whole_characters = counts[:, 0], text
        if limits.counting == "datatrove" and name == "line":   # split at "\n+" leaves nothing before and behind
            before, behind = outside(batch.column("text"))
            whole, counts[:, 1] = whole + before + behind, counts[:, 1] + (before & behind)
        if limits.counting == "dolma" and name == "line":
            blank = found[Count.NEWLINES] + 1 - np.diff(found.rows.edges)
            counts = repeats(pieces, blank=True)
            whole, counts[:, 2] = counts[:, 0] + blank, counts[:, 2] + blank * (blank > 1)
            whole_characters = found[Count.WORD_CHARACTERS]
        if limits.counting == "dclm":
            whole_characters = counts[:, 3]
        both = 1 if limits.counting in ("dolma", "dclm") else 0
        shares[f"duplicate_{name}s"] = ratio(counts[:, 1 + both], whole)
        shares[f"duplicate_{name}_characters"] = ratio(counts[:, 4 + both], whole_characters)
    return shares | (gram_shares(found, limits.counting) if ranges.keys() & TABLE_A1.keys() else {})


def outside(texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Whether texts begin and end with a line feed, as 0 and 1."""
    return tuple(np.asarray(edge(texts, "\n").to_numpy(zero_copy_only=False), np.int64)
                 for edge in (pc.starts_with, pc.ends_with))


def gram_shares(found: Scan, counting: Counting) -> Table:
    """Shares of characters in n-grams."""
    top, duplicate = ngrams(found.words, VARIANTS[counting])
    whole = found[Count.CHARACTERS] if VARIANTS[counting] == 0 else found[Count.WORD_CHARACTERS]
    shares = {f"top_{n}_gram": ratio(top[:, n - 2], whole) for n in TOP}
    return shares | {f"duplicate_{n}_gram": ratio(duplicate[:, n - 5, 0],
                                                  duplicate[:, n - 5, 1] if counting == "dolma" else whole)
                     for n in DUPLICATE}


def repeats(pieces: Pieces, *, blank: bool) -> np.ndarray:
    """Of each document's pieces how many there are, how many repeat one before, how many have their like, and the same
    in characters: (N, 6). Those of white space count if `blank`."""
    if loops := kernel("curate/repetition"):
        out = np.zeros((len(pieces.edges) - 1, 6), np.int64)
        loops.repeats(pieces, blank, out)
        return out
    rows = []
    for first, last in zip(pieces.edges, pieces.edges[1:]):
        counts: Counter[tuple[int, int]] = Counter()
        for piece, length, filled in zip(*(part[first:last].tolist() for part in pieces[:3])):
            counts[piece, length] += filled or blank
        numbers = [(count, max(count - 1, 0), count if count > 1 else 0) for count in counts.values()]
        lengths = [length for _, length in counts]
        rows.append([sum(number[i] * size for number, size in zip(numbers, sizes))
                     for sizes in ([1] * len(lengths), lengths) for i in range(3)])
    return np.array(rows, np.int64).reshape(-1, 6)


def ngrams(words: Pieces, variant: int) -> tuple[np.ndarray, np.ndarray]:
    """Characters in the most frequent 2- to 4-gram of each document, (N, 3), and in duplicate 5- to 10-grams, with what
    all of them hold, (N, 6, 2)."""
    documents = len(words.edges) - 1
    top, duplicate = np.zeros((documents, 3), np.int64), np.zeros((documents, 6, 2), np.int64)
    if loops := kernel("curate/repetition"):
        loops.ngrams(words, variant, top, duplicate)
        return top, duplicate
    for document, (first, last) in enumerate(zip(words.edges, words.edges[1:])):
        hashes, lengths = words.hashes[first:last].tolist(), words.lengths[first:last].tolist()
        for n in range(2, min(len(hashes), 10) + 1):
            grams = list(zip(*(hashes[i:] for i in range(n))))
            sizes = [sum(lengths[i:i + n]) for i in range(len(grams))]
            if n in TOP:
                top[document, n - 2] = most_frequent(grams, sizes, n, variant)
            else:
                duplicate[document, n - 5] = recurring(grams, sizes, lengths, n, variant), sum(sizes)
    return top, duplicate


def most_frequent(grams: list[tuple[int, ...]], sizes: list[int], n: int, variant: int) -> int:
    """Characters in the n-gram that occurs most often."""
    counts = Counter(grams)
    first, count = counts.most_common(1)[0]
    if variant == 2:
        return count * max(size for gram, size in zip(grams, sizes) if counts[gram] == count) if count > 1 else 0
    return count * (sizes[grams.index(first)] + (n - 1 if variant == 0 else 0))


def recurring(grams: list[tuple[int, ...]], sizes: list[int], lengths: list[int], n: int, variant: int) -> int:
    """Characters in n-grams that occur again."""
    counts, seen, total, i = Counter(grams), set(), 0, 0
    if variant == 1:
        return sum(size for gram, size in zip(grams, sizes) if counts[gram] > 1)
    if variant == 2:
        covered = {j for i, gram in enumerate(grams) if counts[gram] > 1 for j in range(i, i + n)}
        return sum(lengths[j] for j in covered)
    while i < len(grams):
        repeated = grams[i] in seen
        total += sizes[i] if repeated else 0
        seen.add(grams[i])
        i += n if repeated else 1
    return total
