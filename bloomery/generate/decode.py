"""Many prompts answered at once, for those who want no engine of their own: one call, and all memory is free again."""

from collections.abc import Collection

from bloomery.generate.engine import Engine
from bloomery.generate.request import Completion, Request
from bloomery.generate.sampling import GREEDY, Sampling
from bloomery.model.transformer import Transformer

SLOTS = 32                      # prompts answered side by side


def complete(model: Transformer, prompts: list[list[int]], *, ends: Collection[int], max_tokens: int,
             how: Sampling = GREEDY, seed: int = 0) -> list[Completion]:
    """One completion of each prompt, ids only. Prompts draw independently, also when they are equal.

    Raises `InputError` for an empty prompt or one that fills the context.
    """
    if not prompts:
        return []
    context = min(model.config.context, max(map(len, prompts)) + max_tokens)
    engine = Engine(model, slots=min(len(prompts), SLOTS), context=context)
    found = engine.generate(Request(tuple(prompt), max_tokens, how=how, seed=(seed << 32) + row, ends=frozenset(ends))
                            for row, prompt in enumerate(prompts))
    return [one for (one,) in found]
