"""Smaller n-gram models: leave out grams, and give what they had to shorter contexts.

A gram that opens a longer one that is kept is kept too, and order 1 is never cut.  The model stays a distribution.
Entropy pruning suits Witten-Bell and interpolated models best: the lower orders of Kneser-Ney are not probabilities of
their words, and suffer (Chelba et al. 2010).
"""

from collections.abc import Sequence
from copy import copy

import numpy as np

from bloomery.classic.grams import Grams
from bloomery.classic.ngram import Ngram, Order


def cut(model: Ngram, minimum: Sequence[int]) -> Ngram:
    """Without the grams of order n that are counted less than `minimum[n - 1]` times; the last holds for all above.

    Counts are the model's: distinct left neighbours below the highest order of Kneser-Ney.
    """
    orders = list(model.orders)
    for n in range(len(orders), 1, -1):
        order = orders[n - 1]
        drop = (order.counts < minimum[min(n, len(minimum)) - 1]) & ~opening(orders, n)
        freed = order.grams.summed(order.own * drop)
        orders = without(orders, n, drop, order.own, order.share + freed)
    return renewed(model, orders)


def by_entropy(model: Ngram, threshold: float) -> Ngram:
    """Without the grams whose loss raises perplexity by less than `threshold` of it. Stolcke 1998, eq. 5.

        D = -p(h) { p(w|h) [ln p(w|h') + ln a' - ln p(w|h)] + (ln a' - ln a) (1 - sum of p over what follows h) }

    where a and a' are the share of the context before and after, and e^D - 1 is the relative change of perplexity.
    """
    if model.smoothing.alone:
        raise ValueError("a model that never backs off cannot be pruned by entropy")
    orders = list(model.orders)
    for n in range(len(orders), 1, -1):
        order, context, summed = orders[n - 1], orders[n - 1].grams.context, orders[n - 1].grams.summed
        path, below = paths(orders, n), renewed(model, orders[:n - 1])
        lower = below.rows(path[:, 1:])[:, -1]                                  # (G,) p(w|h')
        p = order.own + order.share[context] * lower                            # (G,) p(w|h)
        left, left_below = 1 - summed(p), 1 - summed(lower)                     # (C,)
        history = below.rows(path[:, :-1])
        history[:, 0] = np.where(path[:, 0] == model.start, 1, history[:, 0])
        with np.errstate(divide="ignore", invalid="ignore"):
            new = np.log((left[context] + p) / (left_below[context] + lower))   # ln a'
            old = np.log(order.share[context])
            lost = p * (np.log(lower) + new - np.log(p)) + (new - old) * left[context]
            drop = (np.expm1(-history.prod(axis=1) * lost) < threshold) & ~opening(orders, n)
            touched = summed(drop) > 0
            share = np.where(touched, (1 - summed(p * ~drop)) / (1 - summed(lower * ~drop)), order.share)
        own = np.where(touched[context], p - share[context] * lower, order.own)
        orders = without(orders, n, drop, own, share)
    return renewed(model, orders)


def paths(orders: Sequence[Order], n: int) -> np.ndarray:
    """(G, n) the symbols of every gram of order n."""
    columns, number = [], np.arange(len(orders[n - 1].grams))
    for order in reversed(orders[:n]):
        columns.append(order.grams.symbol[number])
        number = order.grams.context[number]
    return np.stack(columns[::-1], axis=1)


def opening(orders: Sequence[Order], n: int) -> np.ndarray:
    """(G,) whether a gram of order n opens one of the order above."""
    used = np.zeros(len(orders[n - 1].grams), bool)
    if n < len(orders):
        used[orders[n].grams.context] = True
    return used


def without(orders: Sequence[Order], n: int, drop: np.ndarray, own: np.ndarray, share: np.ndarray) -> list[Order]:
    """Order n without some grams and with new probabilities, the order above renumbered, those higher as they are."""
    keep, order, rest = ~drop, orders[n - 1], list(orders[n:])
    grams = Grams(order.grams.keys[keep], order.grams.vocabulary, order.grams.contexts)
    if rest:
        above, number = rest[0], np.cumsum(keep) - 1
        keys = number[above.grams.context] * above.grams.vocabulary + above.grams.symbol
        rest[0] = Order(Grams(keys, above.grams.vocabulary, len(grams)), above.counts, above.own, above.share[keep])
    kept = [Order(grams, order.counts[keep], own[keep], share)] if len(grams) else []
    return [*orders[:n - 1], *kept, *rest]


def renewed(model: Ngram, orders: list[Order]) -> Ngram:
    """The same model with other orders."""
    new = copy(model)
    new.orders = orders
    return new
