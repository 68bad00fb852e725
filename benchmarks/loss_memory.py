"""Case `loss-memory` (B12): peak memory of the loss of a long context, forward and backward, against three peers.

    python -m benchmarks.loss_memory SIDE T V

runs one side in this process and prints one JSON line.  Hidden states (T, 512) and the head (V, 512) are bfloat16, as
they are while a model trains; every position counts; the loss is a mean.  Memory is VmHWM after minus VmRSS before, so
it holds both gradients and whatever a side needs on its way.  Equal are the loss, the norms of both gradients, and
<dh, h> = <dW, W> = sum of gradient times logit, which each side gets in two ways.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, linear_cross_entropy

from benchmarks.machine import status

WIDTH = 512
SIZES = [(tokens, vocabulary) for vocabulary in (32_768, 152_064) for tokens in (8192, 16_384, 65_536)]
TRL_COLUMNS = 32_768                    # trl.trainer.utils._CHUNKED_LOGPROB_CHUNK_SIZE
NAIVE_BYTES = 12                        # of every logit at the peak, as measured: three times fp32


def ours(hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    from bloomery.losses.linear_ce import linear_cross_entropy as fused

    return fused(hidden, head, targets, torch.full((len(hidden),), 1 / len(hidden)))[0]


def naive(hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    """All logits, widened, as a model's own forward does."""
    logits = hidden @ head.T
    return cross_entropy(logits.float(), targets)


def trl(hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    """What TRL's trainers call, with log-probabilities alone as output: its cheapest setting."""
    from trl.kernels import ChunkedLogProbFunction

    return -ChunkedLogProbFunction.apply(hidden, head, None, targets, 1.0, TRL_COLUMNS, None, 1.0, ())[0].mean()


def pytorch(hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    return linear_cross_entropy(hidden, head, targets, options=torch.nn.LinearCrossEntropyOptions())


SIDES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "ours": ours, "naive": naive, "trl": trl, "linear_cross_entropy": pytorch,
}


def problem(tokens: int, vocabulary: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, WIDTH, generator=generator).bfloat16().requires_grad_()
    head = (torch.randn(vocabulary, WIDTH, generator=generator) * WIDTH ** -0.5).bfloat16().requires_grad_()
    return hidden, head, torch.randint(vocabulary, (tokens,), generator=generator)


def measure(side: str, tokens: int, vocabulary: int, repeats: int = 2) -> dict:
    """Peak bytes of the first step, seconds of the fastest, and what must be equal on all sides."""
    if side == "naive" and tokens * vocabulary * NAIVE_BYTES > status("MemAvailable", "/proc/meminfo"):
        return {"not_run": f"needs about {tokens * vocabulary * NAIVE_BYTES / 2**30:.0f} GiB"}
    hidden, head, targets = problem(tokens, vocabulary)
    SIDES[side](*problem(64, 256)).backward()                               # imports and threads are not the loss's
    peaks, seconds = [], []
    for _ in range(repeats):
        hidden.grad = head.grad = None
        Path("/proc/self/clear_refs").write_text("5")                       # sets VmHWM back to VmRSS
        before, start = status("VmRSS"), time.perf_counter()
        loss = SIDES[side](hidden, head, targets)
        loss.backward()
        seconds.append(time.perf_counter() - start)
        peaks.append(status("VmHWM") - before)
    products = [float((x.detach().float() * x.grad.float()).sum()) for x in (hidden, head)]
    norms = [float(x.grad.float().norm()) for x in (hidden, head)]
    return {"peak_bytes": peaks[0], "seconds": min(seconds), "loss": float(loss.detach()),
            "checks": [float(loss.detach()), *norms, *products]}


if __name__ == "__main__":
    name, *sizes = sys.argv[1:]
    sys.stdout.write(json.dumps(measure(name, *map(int, sizes))) + "\n")
