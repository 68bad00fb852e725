"""Texts as vectors, by any model of ours: what `bloomery text search` compares beside words."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bloomery.core.errors import ConfigError, InputError
from bloomery.core.metrics import progress
from bloomery.generate.vectors import POOLING, Reader, as_read
from bloomery.model.hub import is_hub_id, located
from bloomery.model.store import load_config, load_model
from bloomery.model.vectors import pooling_in
from bloomery.speaker import Speaker
from bloomery.text.tokenizer import load_tokenizer
from bloomery.train.precision import placed

GROUP = 64                              # texts embedded between two lines of progress


class Embedder:
    """Texts as vectors of length one, by a model of ours. Of a text longer than its context the parts are averaged.

    `pooling` is by default what the folder says of itself, else the mean.
    """

    def __init__(self, model: str, pooling: str = ""):
        if pooling and pooling not in POOLING:
            raise ConfigError(f"no way of pooling is called {pooling}", hint=f"one of {', '.join(POOLING)}")
        folder = Path(located(model) if is_hub_id(model) else model)
        if not (folder / "tokenizer.json").is_file():
            raise InputError("this model cannot read text", where=model, why="it has no tokenizer.json")
        tokenizer, causal = load_tokenizer(folder), load_config(folder).causal
        self.engine = Speaker(folder).open() if causal else Reader(load_model(folder).to(placed()))
        self.pooling = pooling or pooling_in(folder) or "mean"
        self.encode, self.framed = tokenizer.encode, lambda ids: as_read(ids, tokenizer, causal=causal)
        self.room = self.engine.context - len(self.framed([]))

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """(N, D) fp32; an empty text is all zeros."""
        out = np.zeros((len(texts), self.engine.model.config.width), np.float32)
        groups = range(0, len(texts), GROUP)
        for first in progress(groups, name=f"groups of {GROUP} texts embedded", total=len(groups)):
            parts = [(place, ids[start:start + self.room])
                     for place, text in enumerate(texts[first:first + GROUP], start=first)
                     for ids in [self.encode(text)] for start in range(0, len(ids), self.room)]
            vectors = self.engine.embed([self.framed(ids) for _, ids in parts], self.pooling).numpy() if parts else ()
            for (place, ids), vector in zip(parts, vectors):
                out[place] += len(ids) * vector
        sizes = np.linalg.norm(out, axis=1, keepdims=True)
        return out / np.where(sizes > 0, sizes, 1)
