"""ARPA files: how n-gram models travel (SRILM, kenlm and speech recognisers read them).

    \\data\\ says how many grams each order has; then a line a gram: log10 p(w|h), its words, log10 of the weight with
    which p(w|h') is taken where h w was not seen.

That weight is what a context leaves here (`share`), and p is own + share p(w|h'), so both directions are exact up to
the digits written.  Left out: methods that never back off (maximum likelihood, add-k), which the format cannot say.
"""

import re
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from bloomery.classic.grams import Grams
from bloomery.classic.lexicon import SPECIAL, START, Lexicon
from bloomery.classic.ngram import Ngram, Order
from bloomery.classic.pruning import paths, renewed
from bloomery.classic.smoothing import interpolated
from bloomery.core.errors import InputError

SECTION = re.compile(r"\\(\d+)-grams:")
NEVER = -99.0                   # log10 of 0, by custom


def write(model: Ngram, words: Sequence[str], path: Path) -> int:
    """Write a fitted model whose symbol i is `words[i]`; the number of grams."""
    if model.smoothing.alone:
        raise InputError("this model cannot be an ARPA file", why="its smoothing never uses a shorter context",
                         hint="smooth by modified_kneser_ney, witten_bell or interpolated")
    if bad := next((word for word in words if not word or word.split() != [word]), None):
        raise InputError("a word with a space in it cannot be in an ARPA file", where=repr(bad))
    tables = list(lines_of(model, np.array(words, dtype=object)))
    with open(path, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write("\\data\\\n" + "".join(f"ngram {n}={len(lines)}\n" for n, lines in enumerate(tables, start=1)))
        for n, lines in enumerate(tables, start=1):
            file.write(f"\n\\{n}-grams:\n" + "\n".join(lines) + "\n")
        file.write("\n\\end\\\n")
    return sum(map(len, tables))


def lines_of(model: Ngram, words: np.ndarray) -> Iterator[list[str]]:
    """The lines of each order. Order 1 lists every symbol, also those that were never counted."""
    for n, order in enumerate(model.orders, start=1):
        path = paths(model.orders, n)
        p = renewed(model, model.orders[:n]).rows(path)[:, -1]
        share = model.orders[n].share if n < len(model.orders) else None
        if n == 1:
            missing = np.setdiff1d(np.arange(len(words)), path[:, 0])
            path, p = np.append(path, missing[:, None], axis=0), np.append(p, np.full(len(missing), 0.0))
            p[len(order.grams):] = order.share[0] * model.base
            share = None if share is None else np.append(share, np.ones(len(missing)))
            if model.start is not None:
                p[path[:, 0] == model.start] = 0
        texts = map(" ".join, zip(*(words[column] for column in path.T)))
        if share is None:
            yield [f"{x:.7g}\t{text}" for x, text in zip(logarithms(p), texts)]
        else:
            yield [f"{x:.7g}\t{text}\t{weight:.7g}" for x, text, weight in zip(logarithms(p), texts, logarithms(share))]


def logarithms(p: np.ndarray) -> list[float]:
    with np.errstate(divide="ignore"):
        return np.maximum(np.log10(p), NEVER).tolist()


def read(path: Path) -> tuple[Ngram, Lexicon]:
    """The model of an ARPA file and its words; `InputError` says which line cannot be read."""
    numbers = {word: number for number, word in enumerate(SPECIAL)}
    orders: list[Order] = []
    weights = np.zeros(1)                                   # order 1 leaves nothing to the uniform order 0
    for symbol, p, above in sections(path, numbers):
        n, vocabulary = symbol.shape[1], len(numbers)
        model = Ngram(n, vocabulary, start=START, smoothing=interpolated())
        model.orders = list(orders)
        context = np.zeros(len(symbol), np.int64)
        for order, column in zip(orders, symbol.T):
            context = order.grams.find(context * vocabulary + column)
            if (context < 0).any():
                lost = " ".join(list(numbers)[word] for word in symbol[int(np.argmin(context))])
                raise InputError("a gram without the one it continues", where=str(path), why=lost)
        keys = context * vocabulary + symbol[:, -1]
        rank = np.argsort(keys)
        if (np.diff(keys[rank]) == 0).any():
            raise InputError(f"a gram of order {n} stands there twice", where=str(path))
        own = np.where(symbol[:, 0] == START, 0, p) if n == 1 else \
            p - weights[context] * model.rows(symbol[:, 1:])[:, -1]
        orders.append(Order(Grams(keys[rank], vocabulary, len(weights)), np.zeros_like(keys), own[rank], weights))
        weights = above[rank]
    if not orders:
        raise InputError("no n-grams here", where=str(path), why="an ARPA file has a section \\1-grams:")
    lexicon = Lexicon(numbers)
    model = Ngram(len(orders), len(lexicon), start=START, smoothing=interpolated())
    return renewed(model, orders), lexicon


def sections(path: Path, numbers: dict[str, int]) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Each order's grams (G, n), their p and their weights, 1 where none is written.

    Order 1 adds its words to `numbers`.
    """
    n, line, number = 0, "", 0
    ids, p, weights = array("i"), array("d"), array("d")    # a list of a million tuples would be slow
    with open(path, encoding="utf-8", errors="surrogateescape") as file:        # old files have words in Latin-1
        for number, line in enumerate(file, start=1):
            fields = line.split()
            if len(fields) == 1 and fields[0].startswith("\\"):
                if n and p:
                    yield np.array(ids, np.int64).reshape(-1, n), 10 ** np.array(p), 10 ** np.array(weights)
                section = SECTION.fullmatch(fields[0])
                if section and int(section[1]) != n + 1:
                    raise InputError(f"the section {fields[0]} comes after order {n}", where=f"{path}:{number}")
                n += bool(section)
                ids, p, weights = array("i"), array("d"), array("d")
            elif fields and n:
                try:
                    p.append(float(fields[0]))
                    weights.append(float(fields[n + 1]) if len(fields) > n + 1 else 0.0)
                    if n == 1:
                        numbers.setdefault(fields[1], len(numbers))
                    ids.extend([numbers[word] for word in fields[1:n + 1]])
                except (ValueError, IndexError, KeyError) as error:
                    raise InputError(f"not a gram of order {n}, of words of order 1", where=f"{path}:{number}",
                                     why=f"{type(error).__name__}: {error}") from None
                if not n + 1 <= len(fields) <= n + 2:
                    raise InputError(f"not a gram of order {n}", where=f"{path}:{number}",
                                     why=f"{len(fields)} fields, not {n + 1} or {n + 2}")
    if line.strip() != "\\end\\":
        raise InputError("the file is cut off", where=f"{path}:{number}", why="its last line is not \\end\\")
