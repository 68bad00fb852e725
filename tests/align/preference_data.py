"""Pairs and rated answers of random tokens, and what a padded rectangle of whole sequences says of them: the oracle."""

import torch
from torch import Tensor

from bloomery.align.pairs import Items, Pair, Rated
from bloomery.data.batch import rectangle
from bloomery.model.config import ModelConfig
from bloomery.model.forest import DenseForest
from bloomery.model.transformer import Transformer

CONFIG = ModelConfig(vocabulary=40, context=64, depth=2, width=24, heads=4, kv_heads=2, head_width=6, hidden=32)


def drawn(generator: torch.Generator, low: int, high: int) -> list[int]:
    count = int(torch.randint(low, high, (1,), generator=generator))
    return torch.randint(0, 40, (count,), generator=generator).tolist()


def some_pairs(count: int = 9, *, soft: bool = False) -> list[Pair]:
    """Prompts of one token and more; the first is shared by two pairs. If `soft`, with margins and vote shares."""
    generator = torch.Generator().manual_seed(0)
    pairs = [Pair(drawn(generator, 1, 12), drawn(generator, 1, 9), drawn(generator, 1, 20),
                  *((0.25 * (i % 3), 1.0 - 0.1 * (i % 4)) if soft else ())) for i in range(count)]
    return [Pair([7], [3, 4], [5]), Pair([7], [9, 4], [8, 8, 8]), *pairs[2:]]


def some_ratings(count: int = 7) -> list[Rated]:
    generator = torch.Generator().manual_seed(1)
    prompts, answers = ([drawn(generator, 1, 9) for _ in range(count)] for _ in range(2))
    return [Rated(prompts[i], answers[i], answers[(i + 1) % count], i % 3 != 0) for i in range(count)]


def padded_logps(model: Transformer, items: Items) -> Tensor:
    """log p of both answers of every item (2P,): prompt and answer as one row of a padded rectangle, read whole."""
    rows = [(item.prompt, answer) for item in items for answer in item.answers]
    wide = max(len(prompt) + len(answer) for prompt, answer in rows)
    batch = rectangle(torch.tensor([[*p, *a, *[0] * (wide - len(p) - len(a))] for p, a in rows]))
    logits = model.logits(model(batch.ids, batch.positions, DenseForest(batch.segments)))
    logp = logits.log_softmax(-1).gather(-1, batch.targets[:, None]).view(len(rows), wide - 1)
    own = torch.tensor([[len(p) <= t < len(p) + len(a) for t in range(1, wide)] for p, a in rows])
    return (logp * own).sum(1)
