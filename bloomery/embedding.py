"""Texts as vectors, by any model of ours: what `bloomery text search` compares beside words."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bloomery.core.errors import ConfigError, InputError
from bloomery.core.metrics import progress
from bloomery.generate.engine import POOLING
from bloomery.model.hub import is_hub_id, located
from bloomery.speaker import Speaker

GROUP = 64                              # texts embedded between two lines of progress


class Embedder:
    """Texts as vectors of length one, by a model of ours. Of a text longer than its context the parts are averaged."""

    def __init__(self, model: str, pooling: str = "mean"):
        if pooling not in POOLING:
            raise ConfigError(f"no way of pooling is called {pooling}", hint=f"one of {', '.join(POOLING)}")
        speaker = Speaker(Path(located(model) if is_hub_id(model) else model))
        if speaker.tokenizer is None:
            raise InputError("this model cannot read text", where=model, why="it has no tokenizer.json")
        self.encode, self.engine, self.pooling = speaker.tokenizer.encode, speaker.open(), pooling

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """(N, D) fp32; an empty text is all zeros."""
        out = np.zeros((len(texts), self.engine.model.config.width), np.float32)
        groups = range(0, len(texts), GROUP)
        for first in progress(groups, name=f"groups of {GROUP} texts embedded", total=len(groups)):
            parts = [(place, ids[start:start + self.engine.context])
                     for place, text in enumerate(texts[first:first + GROUP], start=first)
                     for ids in [self.encode(text)] for start in range(0, len(ids), self.engine.context)]
            vectors = self.engine.embed([ids for _, ids in parts], self.pooling).numpy() if parts else ()
            for (place, ids), vector in zip(parts, vectors):
                out[place] += len(ids) * vector
        sizes = np.linalg.norm(out, axis=1, keepdims=True)
        return out / np.where(sizes > 0, sizes, 1)
