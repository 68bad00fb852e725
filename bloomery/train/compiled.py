"""torch.compile for the blocks of a model, where a compiler is at hand; without one training goes on as it was.

Each block is compiled in place, so that names of weights, checkpoints and wrappers stay.  Attention's view of the batch
is Python and stays outside of the graphs.  Compilation happens here, on a first batch, and not in the first step: its
time is told, and what goes wrong is seen before training has begun.
"""

import time
from collections.abc import Callable

import torch
from torch import Tensor

from bloomery.core.metrics import say
from bloomery.model.transformer import Transformer


def compiled(model: Transformer, trial: Callable[[], Tensor]) -> bool:
    """Compile every block and run `trial` (a loss of a first batch) forward and backward; whether it worked.

    Gradients are as they were before.  On failure the blocks are as they were too, and one line says why.
    """
    before = [p.grad for p in model.parameters()]
    model.zero_grad(set_to_none=True)
    start = time.perf_counter()
    for block in model.blocks:
        block.compile(dynamic=True)
    try:
        trial().backward()
        say(f"  blocks compiled in {time.perf_counter() - start:.0f} s")
        return True
    except Exception as error:                                  # whatever a compiler may raise: we do not need it
        for block in model.blocks:
            block._compiled_call_impl = None
        torch.compiler.reset()
        say(f"  blocks are not compiled: {' '.join(str(error).split())[:160] or type(error).__name__}")
        return False
    finally:
        for p, gradient in zip(model.parameters(), before, strict=True):
            p.grad = gradient
