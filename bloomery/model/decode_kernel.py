"""Attention of one new token a row over a cache, reading every key once: a kernel (numba; imported when needed).

    out_i = sum_j p_ij v_j,  p_ij = exp(s_ij - max_j s_ij) / sum_j exp(s_ij - max_j s_ij),  s_ij = cap(q_i . k_j scale)

taken over blocks of `BLOCK` keys with a running maximum and sum (Milakov & Gimelshein 2018; Dao et al. 2022).  Blocks
begin at multiples of `BLOCK`, so that what a row gets depends on nothing but its own tokens: not on other rows, nor on
where its keys lie, nor on the number of threads.  Rows whose first keys lie in the same place read each block of them
in turn, while the processor holds it (Juravsky et al. 2024, "Hydragen").

Threads are torch's own: OpenMP calls the compiled function in each, and each takes a key head of a group of rows until
none is left.  With threads of numba's, two pools would wait for the same cores.

Keys in bfloat16 come as their bits, uint16, and are widened as they are read: twice as many a second as in fp32.
"""

import ctypes
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import torch
from llvmlite import ir
from numba import carray, from_dtype, njit, types
from numba.extending import intrinsic
from torch import Tensor

from bloomery.model.dot_product import Scoring
from bloomery.model.lanes import LANES, blend, dots
from bloomery.model.native import FAST, KINDS, as_float, compiled, narrow, pointer, widen

BLOCK = 64              # keys scored before any is weighed: 8 kB of keys, in the first cache for all rows of a group
SIBLINGS = 8            # rows whose first keys lie in one place that one thread attends together
FEW = 2**15             # numbers of keys a layer below which waking another thread takes longer than reading them

JOB = np.dtype([(name, np.int64) for name in (                  # what a thread is told; from `order` on addresses
    "taken", "rows", "groups", "heads", "key_heads", "width", "q_stride", "kv_stride", "slots", "capacity", "window",
    "pairs", "order", "edges", "where", "q", "k", "v", "keys", "values", "cos", "sin", "out")]
    + [("scale", np.float32), ("cap", np.float32)])
ZERO, ONE, HALF, LOG2E, LEAST = map(np.float32, (0, 1, 0.5, 1 / np.log(2), -126))
C1, C2, C3, C4, C5, C6 = (np.float32(np.log(2) ** n / np.prod(np.arange(1, n + 1))) for n in range(1, 7))


@intrinsic
def take(typing_context, job):
    """What the counter of a job says, which is one more for the next who asks."""
    def code(context, builder, signature, values):
        counter = builder.bitcast(values[0], ir.IntType(64).as_pointer())               # its first field
        return builder.atomic_rmw("add", counter, ir.Constant(ir.IntType(64), 1), "seq_cst")

    return types.int64(job), code


@intrinsic
def fetch(typing_context, address):
    """Ask for the cache line at an address, which is read soon."""
    def code(context, builder, signature, values):
        pointer = builder.inttoptr(values[0], ir.IntType(8).as_pointer())
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, number, number, number])
        call = builder.module.declare_intrinsic("llvm.prefetch", [pointer.type], kind)
        builder.call(call, [pointer, number(0), number(3), number(1)])
        return context.get_dummy_value()

    return types.void(types.uintp), code


@njit(nogil=True)
def turn(out, x, cos, sin):
    """x (E,) in fp32 with the pairs (k, k + pairs) turned; see `positions.rope`."""
    pairs = len(cos)
    for e in range(pairs):
        a, b, c, s = widen(x[e]), widen(x[e + pairs]), widen(cos[e]), widen(sin[e])
        out[e], out[e + pairs] = a * c - b * s, b * c + a * s
    for e in range(2 * pairs, len(x)):
        out[e] = widen(x[e])


@njit(inline="always")
def exp(x):
    """e^x of x <= 0, 2e-8 of it off, without a branch: 2^n times the series of 2^f, f in [-1/2, 1/2]; least 2^-126."""
    t = max(x * LOG2E, LEAST)
    n = np.floor(t + HALF)
    f = t - n
    power = ONE + f * (C1 + f * (C2 + f * (C3 + f * (C4 + f * (C5 + f * C6)))))
    return power * as_float(np.uint32((np.int32(n) + np.int32(127)) << np.int32(23)))


@njit(nogil=True)
def ask(soon, first, last, line):
    """Ask for the lines first..last, of so many bytes, from the address `soon` on; lines of no bytes are none."""
    for byte in range(first * line, last * line, 64):
        fetch(np.uintp(soon + byte))


@njit(fastmath=FAST, nogil=True)
def score(scores, q, keys, soon, line):
    """q (E,) . k of all keys (J, E); meanwhile as many lines from `soon` on are asked for."""
    count = keys.shape[0]
    whole = count // LANES * LANES if q.shape[0] % LANES == 0 else 0
    for j in range(0, whole, LANES):
        ask(soon, j, j + LANES, line)
        dots(scores, j, q, keys, j)
    ask(soon, whole, count, line)
    for j in range(whole, count):
        dot = ZERO
        for e in range(q.shape[0]):
            dot += q[e] * widen(keys[j, e])
        scores[j] = dot


@njit(fastmath=FAST | {"nnan"}, nogil=True)
def highest(scores, count, most):
    """The largest of `most` and the first scores; what is not a number is found below."""
    for j in range(count):
        most = max(most, scores[j])
    return most


@njit(fastmath=FAST, nogil=True)
def weigh(scores, count, most):
    """Scores become weights against the score `most`; their sum, not a number if a score is none."""
    mass, wrong = ZERO, ZERO
    for j in range(count):
        wrong += scores[j]
        weight = exp(scores[j] - most)
        scores[j] = weight
        mass += weight
    return mass + ZERO * wrong


@njit(fastmath=FAST, nogil=True)
def gather(total, weights, values, soon, line):
    """total (E,) += weights times all values (J, E); meanwhile as many lines from `soon` on are asked for."""
    count = values.shape[0]
    whole = count // LANES * LANES if total.shape[0] % LANES == 0 else 0
    for j in range(0, whole, LANES):
        ask(soon, j, j + LANES, line)
        blend(total, weights, j, values, j)
    ask(soon, whole, count, line)
    for j in range(whole, count):
        for e in range(total.shape[0]):
            total[e] += weights[j] * widen(values[j, e])


@njit(nogil=True)
def attend(group, head, each, q, k, v, cos, sin, keys, values, where, scale, window, cap, out):
    """Keep k and v (B, K, E) of one head behind what the rows `group` hold, then attend: q, out (B, H, E).

    Of keys (S, K, C, E) row i sees the first where[1, i] of slot where[0, i] and its own; whole blocks of them, the
    first where[3, i], lie in slot where[2, i] instead. It sees the last `window` of all these (0: all); no cap is 0.
    q and k are turned first by cos and sin (B, pairs), where there are pairs; `each` query heads read a key head.
    """
    heads, width, longest = keys.shape[1], keys.shape[3], 0
    slots, lengths, lenders, lent = where[0], where[1], where[2], where[3]
    most, mass = np.full((len(group), each), -np.inf, np.float32), np.zeros((len(group), each), np.float32)
    queries, totals = np.empty((len(group), each, width), np.float32), np.zeros((len(group), each, width), np.float32)
    scores, turned = np.empty(BLOCK, np.float32), np.empty(width, np.float32)
    for n, i in enumerate(group):
        turn(turned, k[i, head], cos[i], sin[i])
        for e in range(width):
            keys[slots[i], head, lengths[i], e] = narrow(turned[e], k[i, head, e])
        values[slots[i], head, lengths[i]] = v[i, head]
        longest = max(longest, lengths[i] + 1)
        for g in range(each):
            turn(turned, q[i, head * each + g], cos[i], sin[i])
            for e in range(width):
                queries[n, g, e] = turned[e] * scale
    for block in range(0, longest, BLOCK):
        for n, i in enumerate(group):
            last = min(block + BLOCK, lengths[i] + 1)
            first = max(block, lengths[i] + 1 - window) if window else block
            if first >= last:
                continue
            slot = lenders[i] if block < lent[i] else slots[i]
            own_keys, own_values = keys[slot, head, first:last], values[slot, head, first:last]
            coming = keys[slot, head, last:] if last <= lengths[i] else keys[slot, min(head + 1, heads - 1)]
            for g in range(each):
                fresh = g == 0 and (n == 0 or slot == slots[i])             # or another has just read them
                line = width * keys.itemsize if fresh else 0
                score(scores, queries[n, g], own_keys, own_values.ctypes.data, line)
                if cap:
                    for j in range(last - first):
                        scores[j] = cap * np.tanh(scores[j] / cap)
                above = highest(scores, last - first, most[n, g])
                fade = exp(most[n, g] - above)
                mass[n, g] = mass[n, g] * fade + weigh(scores, last - first, above)
                most[n, g] = above
                for e in range(width):
                    totals[n, g, e] *= fade
                gather(totals[n, g], scores, own_values, coming.ctypes.data, line)
    for n, i in enumerate(group):
        for g in range(each):
            for e in range(width):
                out[i, head * each + g, e] = totals[n, g, e] / mass[n, g]


@cache
def worker(dtype: torch.dtype) -> Callable:
    """The function a thread calls with the address of a job; compiled once for a machine, which takes seconds."""
    kind, whole, single = KINDS[dtype], types.int64, types.float32

    def work(address):
        job = carray(address, 1)[0]
        heads, shape = job.key_heads, (job.slots, job.key_heads, job.capacity, job.width)
        q = carray(pointer(job.q, kind), (job.rows, job.q_stride, job.width))
        k = carray(pointer(job.k, kind), (job.rows, job.kv_stride, job.width))
        v = carray(pointer(job.v, kind), (job.rows, job.kv_stride, job.width))
        cos = carray(pointer(job.cos, kind), (job.rows, job.pairs))
        sin = carray(pointer(job.sin, kind), (job.rows, job.pairs))
        keys, values = carray(pointer(job.keys, kind), shape), carray(pointer(job.values, kind), shape)
        order = carray(pointer(job.order, whole), (job.rows,))
        edges = carray(pointer(job.edges, whole), (job.groups + 1,))
        where = carray(pointer(job.where, whole), (4, job.rows))
        out = carray(pointer(job.out, single), (job.rows, job.heads, job.width))
        item = take(address)
        while item < job.groups * heads:
            group = order[edges[item // heads]:edges[item // heads + 1]]
            attend(group, item % heads, job.heads // heads, q, k, v, cos, sin, keys, values, where,
                   job.scale, job.window, job.cap, out)
            item = take(address)

    return compiled(work, types.void(types.CPointer(from_dtype(JOB))))


class Step:
    """Rows that attend one token each: in `slots` that hold `lengths` keys, `lent` of them to be found at `lenders`."""

    def __init__(self, slots: Sequence[int], lengths: Sequence[int], lenders: Sequence[int], lent: Sequence[int]):
        order = sorted(range(len(slots)), key=lambda row: (lenders[row], row))
        edges = [0]
        for at, row in enumerate(order[1:], start=1):
            together = lent[row] and lenders[row] == lenders[order[at - 1]]
            if not together or at - edges[-1] == SIBLINGS:
                edges.append(at)
        self.arrays = np.array(order), np.array([*edges, len(order)]), np.array([slots, lengths, lenders, lent])
        self.rows, self.read = len(slots), sum(lengths) + len(slots)
        self.job = np.zeros(1, JOB)
        said = self.job[0]
        said["rows"], said["groups"] = self.rows, len(edges)
        said["order"], said["edges"], said["where"] = (array.ctypes.data for array in self.arrays)
        self.at, self.numbers = self.job.ctypes.data, self.job.view(np.int64)
        self.known: Scoring | None = None

    def attend(self, q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, scoring: Scoring) -> Tensor:
        """What the rows see, (N, H, E): zeros for rows of padding, which are the last; keys (S, K, C, E) of a layer."""
        q, k, v = (x.to(keys.dtype).contiguous() for x in (q, k, v))
        addresses = q.data_ptr(), k.data_ptr(), v.data_ptr()
        return self._attend(q.shape[:2], (q.shape[1], k.shape[1]), addresses, keys, values, scoring)

    def attend_turned(self, qkv: Tensor, cos: Tensor, sin: Tensor, keys: Tensor, values: Tensor, scoring: Scoring
                      ) -> Tensor:
        """As `attend` of queries, keys and values side by side in qkv (N, H + 2K, E), once turned by cos and sin."""
        qkv, cos, sin = (x.to(keys.dtype).contiguous() for x in (qkv, cos, sin))
        key_heads, bytes_ = keys.shape[1], keys.shape[3] * keys.element_size()
        heads, start = qkv.shape[1] - 2 * key_heads, qkv.data_ptr()
        addresses = start, start + heads * bytes_, start + (heads + key_heads) * bytes_
        return self._attend((len(qkv), heads), (qkv.shape[1], qkv.shape[1]), addresses, keys, values, scoring, cos, sin)

    def _attend(self, shape: tuple[int, int], strides: tuple[int, int], addresses: tuple[int, int, int], keys: Tensor,
                values: Tensor, scoring: Scoring, cos: Tensor | None = None, sin: Tensor | None = None) -> Tensor:
        out = (torch.zeros if shape[0] > self.rows else torch.empty)(*shape, keys.shape[3])
        said = self.job[0]
        if self.known is not scoring:                           # the same for most layers
            said["heads"], (said["q_stride"], said["kv_stride"]) = shape[1], strides
            said["slots"], said["key_heads"], said["capacity"], said["width"] = keys.shape
            said["window"], said["cap"] = scoring.window or 0, scoring.softcap or 0
            said["scale"], said["pairs"] = scoring.scale_of(keys.shape[3]), 0 if cos is None else cos.shape[-1]
            self.known = scoring
        turns = (0, 0) if cos is None else (cos.data_ptr(), sin.data_ptr())
        said["taken"] = 0
        self.numbers[Q:Q + 8] = *addresses, keys.data_ptr(), values.data_ptr(), *turns, out.data_ptr()
        work = worker(keys.dtype)
        if PARALLEL and self.read * keys.shape[1] * keys.shape[3] > FEW:
            PARALLEL(work.address, self.at, torch.get_num_threads(), 0)
        else:
            work.ctypes(self.at)
        return out


def parallel() -> Callable | None:
    """`GOMP_parallel` of the OpenMP that torch has loaded, or None where it is another."""
    try:
        call = ctypes.CDLL("libgomp.so.1").GOMP_parallel
    except (OSError, AttributeError):
        return None
    call.argtypes, call.restype = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint), None
    return call


PARALLEL = parallel()
Q = JOB.fields["q"][1] // 8              # where addresses that change from layer to layer begin
