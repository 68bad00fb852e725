"""Attention on a tree of token runs, exact, every run read once: pieces of what a query sees, merged.

A query of an answer sees its prompt and the past of its own run.  Each of these pieces is a product of its own, in
which the answers to many prompts, or the queries of all answers to one prompt, stand together; from the outputs o_i and
log-sum-exps l_i of the pieces of a query

    l = log sum_i exp(l_i),   out = sum_i exp(l_i - l) o_i

and the backward pass of every piece, given l and out, is that of flash attention.  The merge is associative, so deeper
trees are more pieces.  Hydragen (Juravsky et al. 2024) does this for decoding.

Short rows in bf16 go through `blocked.py`, others through torch's flash kernel for CPUs, whose operators are private:
they are tried once, and where they do not say what attention is by definition, `blocked.py` does everything.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property

import torch
from torch import Tensor

from bloomery.core.metrics import say
from bloomery.model.blocked import CAUSAL, LONGEST, Sees, gradients, grouped, piece_seen, seen
from bloomery.model.dot_product import PLAIN, Scoring, attention

NEVER = 1e30            # a log-sum-exp beside which every score weighs nothing
TOLERANCE = 1e-5        # how near the flash kernel must come to the definition, in fp32


@dataclass(frozen=True)
class Rows:
    """Flat indices of tokens as padded rows (B, T) int64; padding repeats a token and is False in `real` (B, T).

    `heads` is of the tensors these rows are taken from: how to reach them is worked out once for all layers.
    """

    index: Tensor
    real: Tensor
    heads: int

    @cached_property
    def places(self) -> Tensor:
        """Where each head of each token stands in (N heads, ...), (B heads T,)."""
        return (self.index[:, None] * self.heads + torch.arange(self.heads)[:, None]).flatten()

    @cached_property
    def full(self) -> bool:
        return bool(self.real.all())

    @cached_property
    def _real(self) -> Tensor:
        return self.real[:, None].expand(-1, self.heads, -1).flatten()

    @cached_property
    def _kept(self) -> tuple[Tensor, Tensor]:
        kept = self._real.nonzero()[:, 0]
        return self.places[kept], kept

    @cached_property
    def _padding(self) -> Tensor:
        return (~self._real).nonzero()[:, 0]

    def take(self, x: Tensor) -> Tensor:
        """x (N, heads, ...) -> (B, heads, T, ...), contiguous."""
        count, tokens = self.index.shape
        return x.flatten(0, 1).index_select(0, self.places).view(count, self.heads, tokens, *x.shape[2:])

    def filled(self, x: Tensor, value: float) -> Tensor:
        """x (B, heads, T, ...) with `value` for its padding, in place."""
        if not self.full:
            x.flatten(0, 2).index_fill_(0, self._padding, value)
        return x

    def kept(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What is real of x (B, heads, T, ...), and where it stands in (N heads, ...)."""
        if self.full:
            return self.places, x.flatten(0, 2)
        places, kept = self._kept
        return places, x.flatten(0, 2).index_select(0, kept)


@dataclass(frozen=True)
class Piece:
    """Rows of queries over rows of keys. No query stands in a piece twice, and every query is in one own piece."""

    queries: Rows
    keys: Rows
    sees: Sees
    own: bool               # each run over itself; otherwise over an ancestor
    whole: bool             # its queries see nothing else


Kernel = tuple[Callable, Callable]      # forward and backward of one piece


def flash_forward(q: Tensor, k: Tensor, v: Tensor, piece: Piece, scoring: Scoring) -> tuple[Tensor, Tensor]:
    """out (B, H, T, E) and its log-sum-exp (B, H, T)."""
    causal, mask = flash_mask(piece, q.dtype)
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q, k, v, 0.0, causal, attn_mask=mask, scale=scoring.scale)


def flash_backward(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, whole: "Whole", piece: Piece,
                   scoring: Scoring) -> tuple[Tensor, Tensor, Tensor]:
    causal, mask = flash_mask(piece, q.dtype)
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
        grad, q, k, v, piece.queries.take(whole.out), whole.lse_of(piece), 0.0, causal, attn_mask=mask,
        scale=scoring.scale)


def flash_mask(piece: Piece, dtype: torch.dtype) -> tuple[bool, Tensor | None]:
    """Causal or not, and an additive mask of the queries' dtype: the operator refuses any other.

    What is hidden is low but not -inf: a query that sees nothing would get a log-sum-exp of 0 and so a weight.
    """
    if piece.sees.hidden is None:
        return piece.sees.causal, None
    return False, piece.sees.hidden * torch.tensor(torch.finfo(dtype).min / 4, dtype=dtype)


def blocked_forward(q: Tensor, k: Tensor, v: Tensor, piece: Piece, scoring: Scoring) -> tuple[Tensor, Tensor]:
    parts = grouped(q, k, v, scoring)
    if piece.whole:
        return seen(*parts, piece.sees, scoring.softcap).view_as(q), q.new_zeros(())
    out, lse = piece_seen(*parts, piece.sees, scoring.softcap)
    return out.view_as(q), lse.flatten(1, 2)


def blocked_backward(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, whole: "Whole", piece: Piece,
                     scoring: Scoring) -> tuple[Tensor, Tensor, Tensor]:
    groups, lse, delta = (k.shape[1], -1), None, None
    if not piece.whole:
        lse = whole.lse_of(piece).unflatten(1, groups)
        delta = piece.queries.take(whole.delta).unflatten(1, groups)
    dq, dk, dv = gradients(grad.unflatten(1, groups), *grouped(q, k, v, scoring), piece.sees, scoring.softcap, lse,
                           delta)
    return dq.view_as(q).mul_(scoring.scale_of(q.shape[-1])), dk, dv


@dataclass(frozen=True)
class Whole:
    """What the backward pass of a piece has to know of all of them: `out` (N, H, E), its gradient and `lse` (N, H)."""

    out: Tensor
    lse: Tensor
    grad: Tensor

    @cached_property
    def delta(self) -> Tensor:
        """The sum of grad * out, (N, H): what softmax's gradient subtracts (Dao et al. 2022, section B.2)."""
        return (self.grad.to(self.lse.dtype) * self.out).sum(-1)

    def lse_of(self, piece: Piece) -> Tensor:
        """(B, H, T), so high for padding that it weighs nothing."""
        return piece.queries.filled(piece.queries.take(self.lse), NEVER)


FLASH: Kernel = (flash_forward, flash_backward)
BLOCKED: Kernel = (blocked_forward, blocked_backward)


def kernel(piece: Piece, dtype: torch.dtype, scoring: Scoring) -> Kernel:
    """Which of the two is faster for a piece, among those that can do it."""
    short = dtype == torch.bfloat16 and piece.keys.index.shape[1] <= LONGEST
    able = scoring.softcap is None and piece.sees.window is None and flash_is_right()
    return FLASH if able and not short else BLOCKED


class TreeAttention(torch.autograd.Function):
    """q (N, H, E), k and v (N, K, E) -> (N, H, E); pieces with their kernels, own ones first."""

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, pieces: list[tuple[Piece, Kernel]], scoring: Scoring) -> Tensor:
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        wide = torch.promote_types(q.dtype, torch.float32)
        out, lse = torch.empty_like(q), q.new_zeros(q.shape[:2], dtype=wide)
        flat_out, flat_lse = out.view(-1, q.shape[2]), lse.view(-1)
        for piece, (forward, _) in pieces:
            part, part_lse = forward(piece.queries.take(q), piece.keys.take(k), piece.keys.take(v), piece, scoring)
            places, part = piece.queries.kept(part)                                      # (n,), (n, E)
            if part_lse.dim():
                part_lse = piece.queries.kept(part_lse)[1]                               # (n,)
                if not piece.own:
                    before = flat_lse.index_select(0, places)
                    after = torch.logaddexp(before, part_lse)
                    old, new = (before - after).exp_()[:, None], (part_lse - after).exp_()[:, None]
                    part, part_lse = (flat_out.index_select(0, places) * old + part * new).to(q.dtype), after
                flat_lse[places] = part_lse
            flat_out.index_copy_(0, places, part)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.pieces, ctx.scoring = pieces, scoring
        return out

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse = ctx.saved_tensors
        whole = Whole(out, lse, grad.contiguous())
        sums = [torch.zeros_like(x) for x in (q, k, v)]
        for piece, (_, backward) in ctx.pieces:
            queries, keys = piece.queries, piece.keys
            parts = backward(queries.filled(queries.take(whole.grad), 0.0), queries.take(q), keys.take(k), keys.take(v),
                             whole, piece, ctx.scoring)
            for total, part, rows in zip(sums, parts, (queries, keys, keys), strict=True):
                places, part = rows.kept(part)
                flat = total.view(-1, total.shape[2])
                flat.index_copy_(0, places, part if piece.own else flat.index_select(0, places) + part)
        return *sums, None, None


def tree_attention(q: Tensor, k: Tensor, v: Tensor, pieces: list[Piece], scoring: Scoring = PLAIN) -> Tensor:
    """Attention of flat tokens q (N, H, E), k and v (N, K, E) whose pieces are `pieces`, (N, H, E)."""
    return TreeAttention.apply(q, k, v, [(piece, kernel(piece, q.dtype, scoring)) for piece in pieces], scoring)


@cache
def flash_is_right() -> bool:
    """Try the private operators on a prompt of 3 tokens and two answers of 2, forward and backward."""
    def rows(index: list[list[int]], heads: int) -> Rows:
        return Rows(torch.tensor(index), torch.ones(len(index), len(index[0]), dtype=torch.bool), heads)

    prompt, answers = [[0, 1, 2]], [[3, 4], [5, 6]]
    over = Sees(causal=False, hidden=torch.zeros(1, 1, 1, 3, dtype=torch.bool))
    pieces = [Piece(rows(prompt, 4), rows(prompt, 2), CAUSAL, own=True, whole=True),
              Piece(rows(answers, 4), rows(answers, 2), CAUSAL, own=True, whole=False),
              Piece(rows([[3, 4, 5, 6]], 4), rows(prompt, 2), over, own=False, whole=False)]
    mask = torch.ones(7, 7).tril().bool()
    mask[5:, 3:5] = False
    generator = torch.Generator().manual_seed(0)
    q, k, v, grad = (torch.randn(7, heads, 4, generator=generator).requires_grad_() for heads in (4, 2, 2, 4))
    with torch.enable_grad():
        expected = attention(*(x.transpose(0, 1) for x in (q, k, v)), mask).transpose(0, 1)
        expected = expected, *torch.autograd.grad(expected, (q, k, v), grad)
        try:
            out = TreeAttention.apply(q, k, v, [(piece, FLASH) for piece in pieces], PLAIN)
            error = max(float((one - other).detach().abs().max()) for one, other in
                        zip((out, *torch.autograd.grad(out, (q, k, v), grad)), expected, strict=True))
        except (AttributeError, RuntimeError, TypeError) as problem:
            say(f"torch's flash attention cannot be used ({str(problem).splitlines()[0]}): slower products instead")
            return False
    if not error <= TOLERANCE:
        say(f"torch's flash attention is off by {error:.1e} here: slower products instead")
    return error <= TOLERANCE
