"""A token a row in one pass over its logits: greedy, or drawn at a temperature with no cuts (numba).

With w_j = e^((x_j - max x) / T), the token drawn is the first whose w_1 + ... + w_j is above u times their sum: the
inverse distribution function, as in `sampling.draw`.  Sums of `PART` weights are kept, so that few are added twice.
Rows of 16k take 3 microseconds each, where torch's operations, which write every number in between, take 40.
"""

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
from numba import carray, njit, types
from torch import Tensor

from bloomery.model.decode_kernel import LEAST, LOG2E, ZERO, exp
from bloomery.model.native import FAST, compiled, pointer

PART = 256
ONE = np.float32(1)


@njit(fastmath=FAST, nogil=True)
def weigh(x, most, rate, weights, sums):
    """weights (V,) = e^(rate (x - most)), nothing below 2^-126 of the largest, and the sum of each `PART` of them."""
    for part in range(len(sums)):
        logits, own = x[part * PART:(part + 1) * PART], weights[part * PART:(part + 1) * PART]
        total = ZERO
        for j in range(len(logits)):
            power = (logits[j] - most) * rate
            weight = exp(power) if power * LOG2E > LEAST else ZERO
            own[j] = weight
            total += weight
        sums[part] = total


@njit(nogil=True)
def first_above(weights, sums, mass):
    """The first token whose cumulated weight is above `mass`, or the last there is."""
    before, part = 0.0, 0
    while part < len(sums) - 1 and before + sums[part] <= mass:
        before += sums[part]
        part += 1
    for j in range(part * PART, len(weights)):
        before += weights[j]
        if before > mass:
            return j
    return len(weights) - 1


@njit(nogil=True)
def draw(x, most, rates, uniforms, weights, sums, ids, masses):
    """Rows x (B, V) -> ids (B,) of those with a rate, and log sums (B, 2): at their temperature, and at 1."""
    for i in range(len(x)):
        weigh(x[i], most[i], ONE, weights, sums)
        masses[i, 0] = masses[i, 1] = np.log(sums.sum())
        if rates[i] > 0:
            if rates[i] != ONE:
                weigh(x[i], most[i], rates[i], weights, sums)
                masses[i, 0] = np.log(sums.sum())
            ids[i] = first_above(weights, sums, uniforms[i] * sums.sum())


@cache
def worker() -> Callable:
    """The function of addresses, rows and vocabulary; compiled once for a machine."""
    def work(x, most, rates, uniforms, weights, sums, ids, masses, rows, width):
        single, double, parts = types.float32, types.float64, (width + PART - 1) // PART
        draw(carray(pointer(x, single), (rows, width)), carray(pointer(most, single), (rows,)),
             carray(pointer(rates, single), (rows,)), carray(pointer(uniforms, double), (rows,)),
             carray(pointer(weights, single), (width,)), carray(pointer(sums, double), (parts,)),
             carray(pointer(ids, types.int64), (rows,)), carray(pointer(masses, double), (rows, 2)))

    return compiled(work, types.void(*[types.int64] * 10)).ctypes


def drawn(logits: Tensor, temperatures: Sequence[float], uniforms: Sequence[float]
          ) -> tuple[list[int], list[float], list[float]]:
    """Ids of rows (B, V) in fp32, their log-probabilities where they were drawn from, and those the model gives them.

    Temperature 0 takes the likeliest, the lowest id on ties.  Of a row that is no distribution they are nan.
    """
    x = logits.contiguous().numpy()
    rows, width = x.shape
    most, ids = x.max(1), x.argmax(1)
    tiny = np.finfo(np.float32).tiny
    rates = np.array([1 / max(t, tiny) if t else 0 for t in temperatures], np.float32)
    chances = np.array(uniforms, np.float64)
    weights, sums, masses = np.empty(width, np.float32), np.empty(-(-width // PART)), np.empty((rows, 2))
    worker()(*(array.ctypes.data for array in (x, most, rates, chances, weights, sums, ids, masses)), rows, width)
    with np.errstate(invalid="ignore"):
        gap = (x[np.arange(rows), ids] - most).astype(np.float64)
        logp = gap * np.where(rates > 0, rates, 1) - masses[:, 0]
        return ids.tolist(), logp.tolist(), (gap - masses[:, 1]).tolist()
