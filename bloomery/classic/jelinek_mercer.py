"""Weights of an interpolated model learned on held-out text, by expectation maximisation (Jelinek & Mercer 1980).

Of all symbols that reach order n, because the orders above did not account for them, its next weight is the share that
it accounts for itself: w_n q_n / p_n, where q_n is the relative frequency and p_n the mixture up to order n.
"""

from collections.abc import Sequence

import numpy as np

from bloomery.classic.grams import Document
from bloomery.classic.ngram import Ngram, joined
from bloomery.classic.smoothing import interpolated


def fit_interpolated(model: Ngram, documents: Sequence[Document], held_out: Sequence[Document], *,
                     rounds: int = 20) -> tuple[float, ...]:
    """Fit a model to documents with the weights that make held-out ones likeliest; the weights, of order 1 first."""
    model.smoothing = interpolated(0.5)
    model.fit(documents)                                    # own is half of the relative frequency q
    text, opens = joined(held_out)
    layers = [(at, 2 * own, share < 1) for at, own, share in model.layers(text.astype(np.int64), opens)]
    counted = np.ones(len(opens) - 1, bool) if model.start is None else ~opens[:-1]
    weights = np.full(len(layers), 0.5)
    for _ in range(rounds):
        mixtures = [np.full(len(counted), model.base)]      # p up to each order
        for (at, q, known), w in zip(layers, weights):
            p = mixtures[-1].copy()
            p[at] = np.where(known, w * q + (1 - w) * p[at], p[at])
            mixtures.append(p)
        reach = counted.astype(float)                       # how likely each symbol comes down to this order
        for n in reversed(range(len(layers))):
            at, q, known = layers[n]
            takes = np.where(known, weights[n] * q / np.maximum(mixtures[n + 1][at], 1e-300), 0)
            whole = reach[at][known].sum()
            weights[n] = (reach[at] * takes).sum() / whole if whole else weights[n]
            reach[at] *= 1 - takes
    model.smoothing = interpolated(tuple(weights.tolist()))
    model.fit(documents)
    return tuple(weights.tolist())
