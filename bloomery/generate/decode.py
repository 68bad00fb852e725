"""Cached decoding: read each prompt once, then one token a step for all rows that are still going."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from bloomery.core.errors import InputError
from bloomery.core.records import Message
from bloomery.generate.sampling import Sampling, sample
from bloomery.generate.stopping import TextStream
from bloomery.model.cache import Cache
from bloomery.model.store import load_model
from bloomery.model.transformer import Transformer
from bloomery.text.chat import Renderer
from bloomery.text.tokenizer import load_tokenizer


@dataclass(frozen=True)
class Completion:
    """What was generated for one prompt. `finish` is "stop" at an end token, "length" when there was no more room."""

    ids: list[int]
    finish: str


GREEDY = Sampling(temperature=0)


@torch.no_grad()
def steps(model: Transformer, prompts: list[list[int]], *, ends: set[int], max_tokens: int, how: Sampling = GREEDY,
          seed: int = 0) -> Iterator[dict[int, int]]:
    """Decode all prompts side by side; each item maps the rows still going to the token they got.

    End tokens are yielded too. A row leaves after an end token or when its context is full.
    Raises `InputError` for an empty prompt or one that fills the context.
    """
    context = model.config.context
    for row, prompt in enumerate(prompts):
        if not 0 < len(prompt) < context:
            raise InputError("a prompt cannot be continued", where=f"prompt {row}",
                             why=f"it has {len(prompt)} tokens, the model reads 1 to {context - 1} and then answers")
    capacity = min(context, max(map(len, prompts)) + max_tokens)
    cache = Cache(model.config, len(prompts), capacity, dtype=model.compute)
    generator = torch.Generator().manual_seed(seed)
    live, fed = list(range(len(prompts))), prompts
    for _ in range(max_tokens):
        positions = cache.feed(live, [len(ids) for ids in fed])
        hidden = model(torch.tensor([i for ids in fed for i in ids]), positions, cache)
        cache.advance()
        last = torch.tensor([len(ids) for ids in fed]).cumsum(0) - 1
        chosen = sample(model.logits(hidden[last]).cpu(), how, generator).tolist()
        got = dict(zip(live, chosen, strict=True))
        yield got
        live = [row for row, token in got.items() if token not in ends and cache.lengths[row] < capacity]
        if not live:
            return
        fed = [[got[row]] for row in live]


def complete(model: Transformer, prompts: list[list[int]], *, ends: set[int], max_tokens: int, how: Sampling = GREEDY,
             seed: int = 0) -> list[Completion]:
    """Whole completions of many prompts, end tokens left out."""
    ids: list[list[int]] = [[] for _ in prompts]
    finish = ["length"] * len(prompts)
    for got in steps(model, prompts, ends=ends, max_tokens=max_tokens, how=how, seed=seed):
        for row, token in got.items():
            if token in ends:
                finish[row] = "stop"
            else:
                ids[row].append(token)
    return [Completion(*pair) for pair in zip(ids, finish, strict=True)]


class Chat:
    """A model folder one can talk to."""

    def __init__(self, folder: Path):
        self.model = load_model(folder)
        self.renderer = Renderer(load_tokenizer(folder))

    def reply(self, messages: tuple[Message, ...], *, temperature: float = 0.0, max_tokens: int = 200,
              stop: list[str] | None = None, seed: int = 0) -> Iterator[str]:
        """The assistant's next message, in pieces as they are decoded."""
        tokenizer, stream, ids = self.renderer.tokenizer, TextStream(stop), []
        ends = {tokenizer.turn_end, tokenizer.eos}
        for got in steps(self.model, [self.renderer.prompt(messages)], ends=ends, max_tokens=max_tokens,
                         how=Sampling(temperature=temperature), seed=seed):
            if got[0] in ends:
                break
            ids.append(got[0])
            yield stream.push(tokenizer.decode(ids))
            if stream.stopped:
                return
        yield stream.push(tokenizer.decode(ids), last=True)
