"""Texts as vectors of length one: a model's last states, pooled. Decoders and encoders, no token is written.

A text's vector does not depend on the texts beside it.
"""

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from bloomery.core.errors import InputError
from bloomery.data.packing import best_fit_decreasing
from bloomery.model.forest import Forest, roots
from bloomery.model.transformer import Transformer
from bloomery.text.framing import framed
from bloomery.text.tokenizer import Tokenizer

MICRO_TOKENS = 8192             # of a batch that is embedded


@torch.no_grad()
def vectors(model: Transformer, inputs: Sequence[Sequence[int]], pooling: str = "mean") -> Tensor:
    """(B, D) fp32 on the CPU from token ids, of an encoder with their [CLS] and [SEP]."""
    out, causal = torch.empty(len(inputs), model.config.width), model.config.causal
    for group in best_fit_decreasing([len(ids) for ids in inputs], max([MICRO_TOKENS, *map(len, inputs)])):
        segments = roots([len(inputs[i]) for i in group], causal=causal)
        flat = torch.tensor([id for i in group for id in inputs[i]], device=model.embedding.weight.device)
        hidden = model(flat, segments.positions.to(flat.device), Forest(segments)).float().cpu()
        for i, own in zip(group, hidden.split([len(inputs[i]) for i in group]), strict=True):
            out[i] = normalize(POOLING[pooling](own), dim=0)
    return out


def check(inputs: Sequence[Sequence[int]], context: int) -> None:
    """`InputError` for an input that is empty or longer than a model reads."""
    for number, ids in enumerate(inputs):
        if not 0 < len(ids) <= context:
            raise InputError("an input cannot be embedded", where=f"input {number}",
                             why=f"it has {len(ids)} tokens, the model reads 1 to {context}")


def as_read(ids: list[int], tokenizer: Tokenizer, *, causal: bool) -> list[int]:
    """A text's ids as a model that was tuned for vectors reads them: an encoder between [CLS] and [SEP]."""
    return ids if causal else framed(ids, (), tokenizer.cls, tokenizer.sep)[0]


class Reader:
    """Stands where an `Engine` does for an encoder, which makes vectors and writes nothing: it never has a step to do.

    `context` is of ids with their frame.
    """

    busy, free_slots, waiting = False, 0, 0

    def __init__(self, model: Transformer, *, context: int | None = None):
        self.model, self.context = model.eval(), context or model.config.context
        self.stats: Counter[str] = Counter()

    def embed(self, inputs: list[list[int]], pooling: str = "mean") -> Tensor:
        check(inputs, self.context)
        return vectors(self.model, inputs, pooling)

    def load(self, model: Transformer) -> None:
        """Go on with other weights of the same shape."""
        if model.config != self.model.config:
            raise InputError("these weights do not fit", why="they are of a model of another shape",
                             hint="start another server for it")
        self.model = model.eval()


POOLING = {"mean": lambda hidden: hidden.mean(0), "last": lambda hidden: hidden[-1],     # (T, D) -> (D,)
           "first": lambda hidden: hidden[0]}
