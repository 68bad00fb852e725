"""What tests of adapters share: models whose logits differ visibly, and what they say of some ids."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from bloomery.model.adapt import trained_weights
from bloomery.model.config import ModelConfig
from bloomery.model.forest import Forest, roots
from bloomery.model.transformer import Transformer

SHAPE = ModelConfig(vocabulary=40, context=32, depth=2, width=32, heads=4, kv_heads=2, head_width=8, hidden=48)
GPT2 = SHAPE.model_copy(update={"kv_heads": 4, "norm": "layer", "positions": "learned", "biases": "all",
                                "activation": "gelu_tanh", "tied": True})
IDS = torch.arange(20) * 7 % 40


@torch.no_grad()
def loud(config: ModelConfig, *, times: float = 4, seed: int = 0, compute: torch.dtype = torch.float32) -> Transformer:
    """A random model whose matrices are `times` as large as they are drawn."""
    model = Transformer(config, seed=seed, compute=compute)
    for weight in model.parameters():
        weight.mul_(times if weight.dim() > 1 else 1)
    return model


@torch.no_grad()
def disturbed(model: Transformer, *, by: float = 0.1, seed: int = 1) -> Transformer:
    """What learns has learned something."""
    generator = torch.Generator().manual_seed(seed)
    for weight in trained_weights(model).values():
        weight.add_(by * torch.randn(weight.shape, generator=generator))
    return model


def logits(model: Transformer, ids: Tensor = IDS, memory: object = None) -> Tensor:
    return model.logits(model(ids, torch.arange(len(ids)), memory or Forest(roots([len(ids)]))))


def learned(model: Transformer, ids: Tensor, *, steps: int, lr: float) -> list[float]:
    """The losses of a model that learns one text by heart."""
    optimizer, losses = torch.optim.AdamW(trained_weights(model).values(), lr=lr), []
    for _ in range(steps):
        loss = cross_entropy(logits(model, ids)[:-1], ids[1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses
