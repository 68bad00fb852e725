"""The head and its cross-entropy in one, so that the (N, V) logits never exist.

    nll_t  = lse_t - l_{t,y_t},      lse_t = logsumexp_v(l_tv),      l_tv = cap(h_t . W_v)
    loss_t = (1 - e) nll_t + e mean_v(lse_t - l_tv) + z lse_t^2
    d loss_t / d l_tv = (1 + 2 z lse_t) p_tv - (1 - e) [v = y_t] - e / V,      p = softmax(l)

e is label smoothing (Szegedy et al. 2016, uniform over V), z the coefficient of the z-loss (Chowdhery et al. 2022,
section 5), cap(x) = c tanh(x / c) (Gemma-2) with slope 1 - tanh(x / c)^2.  There is one kernel, `FusedHead`.  A loss
whose weights are known makes its gradients in the forward pass; log-probabilities, which may enter any loss, run it
again in the backward pass.

Rows go through in blocks that stay in cache, each over the whole vocabulary, so that one product makes a row's dh.
dW sums over rows: its product needs the gradients of all of them.  Where those fit into `held` bytes they are kept, and
the head is three products; else dW is made by slices of the vocabulary, whose gradients are made again, all but the
first (less than four products).  Either way a gradient is summed in fp32 inside one product and rounded once: sums of
rounded pieces drift.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

COLUMN = 16             # columns that a bias takes
LEAST = 256             # rows or columns of a product: with 128 it ran at 0.87 of the speed, for 16,384 words


class Limits(NamedTuple):
    """Bytes of a block's fp32 logits, of all gradients of logits if they are kept, of a slice's if they are not."""

    block: int
    held: int
    slice: int


LIMITS = {"cpu": Limits(8 * 2**20, 256 * 2**20, 128 * 2**20),           # a CPU's block should not fall out of its cache
          "gpu": Limits(256 * 2**20, 2 * 2**30, 512 * 2**20)}


class HeadTerms(NamedTuple):
    """What a loss adds to -log p, what the model does to its logits, and whether their entropy is told."""

    label_smoothing: float = 0.0
    z_loss: float = 0.0
    softcap: float | None = None
    entropy: bool = False


class HeadRows(NamedTuple):
    """Figures of every row, all (N,): what is minimised, -log p of the target alone, whether the target scored best.

    `entropy` is that of the prediction in nats, 0 where nobody asked.
    """

    loss: Tensor
    nll: Tensor
    correct: Tensor
    entropy: Tensor


def fitting(limit: int, bytes_each: int, most: int) -> int:
    """How many rows or columns of `bytes_each` fit into a limit: a multiple of LEAST, at least that, at most `most`."""
    return max(1, min(most, max(LEAST, limit // max(1, bytes_each) // LEAST * LEAST)))


def columns_kept(limits: Limits, column: int, vocabulary: int) -> int:
    """How many columns of gradients are held at once, all or a slice, when one takes `column` bytes."""
    return vocabulary if column * vocabulary <= limits.held else fitting(limits.slice, column, vocabulary)


def head_bytes(rows: int, vocabulary: int, dtype: torch.dtype, device: str) -> int:
    """What a pass that makes both gradients holds beside them, for plans of memory."""
    limits, size, wide = LIMITS["cpu" if device == "cpu" else "gpu"], dtype.itemsize, 4 if dtype.itemsize < 4 else 0
    kept = columns_kept(limits, rows * size, vocabulary)
    block = fitting(limits.block, vocabulary * max(size, 4), rows) * vocabulary
    return rows * size * kept + block * (wide + (size if kept < vocabulary else 0))


def softmax_(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax in place; returns each row's maximum and log-sum-exp.

    torch's kernel keeps a row in cache: 0.5 ns an element with both maxima, against 0.8 in separate steps (one core).
    """
    top = scores.amax(-1)
    torch.softmax(scores, -1, out=scores)
    return top, top - scores.amax(-1).log()                     # the largest probability is 1 / sum of exponentials


class FusedHead:
    """One pass over hidden (N, D) and shadow (V, D): figures of every row, and gradients of their weighted sum."""

    def __init__(self, hidden: Tensor, shadow: Tensor, targets: Tensor, weights: Tensor | None, terms: HeadTerms):
        self.hidden, self.shadow, self.targets, self.terms = hidden, shadow, targets, terms
        self.vocabulary = len(shadow)
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        self.weights = weights if weights is None else weights.to(dtype)
        self.lse, self.picked, self.mean, self.top, self.entropy = hidden.new_zeros(5, len(hidden), dtype=dtype)
        self.limits = LIMITS["cpu" if hidden.device.type == "cpu" else "gpu"]
        self.step = fitting(self.limits.block, len(shadow) * self.lse.element_size(), len(hidden))
        block = max(self.step * len(shadow), self.limits.block // self.lse.element_size())
        self.scratch = self.lse.new_empty(block) if hidden.dtype != self.lse.dtype else None

    def rows(self) -> HeadRows:
        smoothing, z, *_ = self.terms
        nll = loss = self.lse - self.picked
        if smoothing:
            loss = (1 - smoothing) * nll + smoothing * (self.lse - self.mean)
        return HeadRows(loss + z * self.lse ** 2 if z else loss, nll, self.picked >= self.top, self.entropy)

    def run(self, d_hidden: Tensor | None, d_weight: Tensor | None) -> HeadRows:
        """Visit every block, and again the columns whose gradients could not be kept; fills d_hidden and d_weight."""
        hidden, vocabulary, column = self.hidden, len(self.shadow), self.hidden[:, 0].nbytes
        kept = columns_kept(self.limits, column, vocabulary) if d_weight is not None else 0
        held = hidden.new_empty(len(hidden), kept)
        block = hidden.new_empty(self.step if kept < vocabulary else 0, vocabulary)
        for first in range(0, len(hidden), self.step):
            part = slice(first, min(first + self.step, len(hidden)))
            product = held[part] if kept == vocabulary else block[:part.stop - first]
            self.visit(part, product, differentiate=d_hidden is not None or d_weight is not None)
            if d_hidden is not None:
                torch.mm(product, self.shadow, out=d_hidden[part])                       # (block, D), over all of V
            if 0 < kept < vocabulary:
                held[part] = product[:, :kept]
        for start in range(0, vocabulary if kept else 0, kept or 1):
            columns = slice(start, min(start + kept, vocabulary))
            gradient = held[:, :columns.stop - start]
            if start:
                self.revisit(columns, gradient)
            d_weight[columns] = gradient.T @ hidden                                      # (slice, D), over all of N
        return self.rows()

    def visit(self, part: slice, product: Tensor, *, differentiate: bool) -> None:
        """Figures of a block of rows, and in `product` (block, V) the gradients of its logits."""
        scores, slope = self.logits(part, self.shadow, product)
        self.picked[part] = scores.gather(-1, self.targets[part, None])[:, 0]
        if self.terms.label_smoothing:
            self.mean[part] = scores.mean(-1)
        self.top[part], self.lse[part] = softmax_(scores)
        if self.terms.entropy:
            self.entropy[part] = torch.special.entr(scores).sum(-1)
        if differentiate:
            product.copy_(self.gradient_(scores, slope, part, self.targets[part], 1.0))

    def revisit(self, columns: slice, gradient: Tensor) -> None:
        """Gradients of the logits of all rows for some columns (N, slice); every row's log-sum-exp is known."""
        step = fitting(self.limits.block, gradient.shape[1] * self.lse.element_size(), len(gradient))
        for first in range(0, len(gradient), step):
            part = slice(first, min(first + step, len(gradient)))
            scores, slope = self.logits(part, self.shadow[columns], gradient[part])
            share = (softmax_(scores)[1] - self.lse[part]).exp()                 # probability of these columns together
            gradient[part] = self.gradient_(scores, slope, part, self.targets[part] - columns.start, share)

    def logits(self, part: slice, shadow: Tensor, product: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits of a block in at least fp32, in `scratch` or `product`, and their slope where they are capped."""
        torch.mm(self.hidden[part], shadow.T, out=product)
        scores = product
        if self.scratch is not None:
            scores = self.scratch[:product.numel()].view(product.shape).copy_(product)
        if self.terms.softcap is None:
            return scores, None
        scores.div_(self.terms.softcap).tanh_()
        slope = 1 - scores * scores
        return scores.mul_(self.terms.softcap), slope

    def gradient_(self, p: Tensor, slope: Tensor | None, part: slice, targets: Tensor, share: Tensor | float) -> Tensor:
        """Probabilities of a block -> gradients of its logits, in place; targets count from its first column."""
        (smoothing, z, *_), weights, columns = self.terms, self.weights[part], p.shape[1]
        p.mul_((weights * (1 + 2 * z * self.lse[part]) * share)[:, None])
        if smoothing:
            p.sub_((weights * (smoothing / self.vocabulary))[:, None])
        here = (targets >= 0) & (targets < columns)
        at_target = torch.where(here, weights * (smoothing - 1), 0.0)
        p.scatter_add_(-1, targets.clamp(0, columns - 1)[:, None], at_target[:, None])
        return p if slope is None else p.mul_(slope)


class RowsHead(FusedHead):
    """`FusedHead` of a weight of which some rows learn, `learned` (n,): `d_weight` (n, D) is theirs alone."""

    def __init__(self, hidden: Tensor, shadow: Tensor, targets: Tensor, weights: Tensor | None, terms: HeadTerms, *,
                 learned: Tensor):
        super().__init__(hidden, shadow, targets, weights, terms)
        self.learned = learned

    def run(self, d_hidden: Tensor | None, d_weight: Tensor | None) -> HeadRows:
        rows = super().run(d_hidden, None)
        if d_weight is not None:
            own = self.targets[:, None] == self.learned                                  # (N, n)
            self.targets = torch.where(own.any(1), own.int().argmax(1), -1)
            self.shadow = self.shadow[self.learned]
            gradient = self.hidden.new_empty(len(self.hidden), len(self.learned))        # (N, n)
            self.revisit(slice(0, len(self.learned)), gradient)
            d_weight.copy_(gradient.T @ self.hidden)
        return rows


Kernel = Callable[..., FusedHead]       # of (hidden, shadow, targets, weights, terms)


def unfilled(ctx, *given: Tensor) -> list[Tensor | None]:
    """Where the gradients of a function's first inputs go, None for those nobody asks for."""
    return [torch.empty_like(x) if needed else None for x, needed in zip(given, ctx.needs_input_grad, strict=False)]


class LinearCrossEntropy(torch.autograd.Function):
    """Weighted sum of the loss, and every row's figures; gradients of the sum are ready when forward returns."""

    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, shadow: Tensor, targets: Tensor, weights: Tensor,
                terms: HeadTerms, kernel: Kernel) -> tuple[Tensor, ...]:
        gradients = unfilled(ctx, hidden, weight)
        rows = kernel(hidden, shadow, targets, weights, terms).run(*gradients)
        ctx.save_for_backward(*gradients)
        ctx.mark_non_differentiable(*rows)
        return (rows.loss * weights).sum(), *rows

    @staticmethod
    def backward(ctx, grad: Tensor, *_) -> tuple[Tensor | None, ...]:
        one = bool(grad == 1)                                                 # then nothing need be copied
        return *(d if d is None or one else d * grad for d in ctx.saved_tensors), None, None, None, None, None


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, weights: Tensor, *,
                         shadow: Tensor | None = None, label_smoothing: float = 0.0, z_loss: float = 0.0,
                         softcap: float | None = None, entropy: bool = False,
                         kernel: Kernel = FusedHead) -> tuple[Tensor, HeadRows]:
    """Sum of weights * loss, a scalar, and each row's figures (N,) without gradient.

    hidden (N, D), weight (V, D), targets (N,) in [0, V), weights (N,).  `shadow` is the weight in the dtype of `hidden`
    when it is at hand.  Raises `ValueError` when no row has weight or a term is out of range.
    """
    if not bool((weights != 0).any()):
        raise ValueError("no target tokens: every weight is 0")
    terms = HeadTerms(label_smoothing, z_loss, softcap, entropy)
    if not 0 <= label_smoothing <= 1 or z_loss < 0 or (softcap is not None and softcap <= 0):
        raise ValueError(f"label_smoothing must be in [0, 1], z_loss >= 0 and softcap above 0, got {terms}")
    total, *rows = LinearCrossEntropy.apply(*inputs(hidden, weight, shadow), targets, weights, terms, kernel)
    return total, HeadRows(*rows)


def with_bias(hidden: Tensor, weight: Tensor, shadow: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """hidden (N, D), weight and shadow (V, D) for a head that also adds a bias (V,): it is one more column of the
    weight, for which every row has a 1; zeros behind it keep the width a multiple of `COLUMN`."""
    one = hidden.new_zeros(len(hidden), COLUMN)
    one[:, 0] = 1
    columns = pad(bias[:, None], (0, COLUMN - 1))
    return (torch.cat((hidden, one), 1), torch.cat((weight, columns.to(weight.dtype)), 1),
            torch.cat((shadow, columns.detach().to(shadow.dtype)), 1))


class LinearLogp(torch.autograd.Function):
    """log p of each target; the backward pass runs the head once more, with the weights that it then knows."""

    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, shadow: Tensor, targets: Tensor, terms: HeadTerms,
                kernel: Kernel) -> Tensor:
        ctx.save_for_backward(hidden, weight, shadow, targets)
        ctx.terms, ctx.kernel = terms, kernel
        return -kernel(hidden, shadow, targets, None, terms).run(None, None).nll

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, shadow, targets = ctx.saved_tensors
        gradients = unfilled(ctx, hidden, weight)
        ctx.kernel(hidden, shadow, targets, -grad, ctx.terms).run(*gradients)
        return *gradients, None, None, None, None


def linear_logp(hidden: Tensor, weight: Tensor, targets: Tensor, *, shadow: Tensor | None = None,
                softcap: float | None = None, kernel: Kernel = FusedHead) -> Tensor:
    """log softmax(hidden W^T)[target], (N,) nats <= 0 in at least fp32, differentiable in `hidden` and `weight`."""
    return LinearLogp.apply(*inputs(hidden, weight, shadow), targets, HeadTerms(softcap=softcap), kernel)


def inputs(hidden: Tensor, weight: Tensor, shadow: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """What both functions begin with; where gradients are off nothing may ask for them, whatever the parameters say."""
    shadow = weight.detach().to(hidden.dtype) if shadow is None else shadow
    return (hidden, weight, shadow) if torch.is_grad_enabled() else (hidden.detach(), weight.detach(), shadow)
