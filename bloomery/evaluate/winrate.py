"""How often a reward model finds a model's answers better than those of the model before it.

Both answer the same held-out prompts, each greedily; ties count half, and the interval is Wilson's.  A reward model
that the policy was trained against says how well it was obeyed, not how good the answers are: judge by one it has not
seen.
"""

from itertools import pairwise
from pathlib import Path
from statistics import fmean

import torch

from bloomery.core.errors import InputError
from bloomery.core.records import Conversation, Message, Preference
from bloomery.generate.decode import complete
from bloomery.generate.scoring import Reward, RewardModel
from bloomery.generate.winrate import tally
from bloomery.model.transformer import Transformer
from bloomery.text.chat import Renderer


def asked(rows: list[Conversation], pairs: list[Preference], limit: int) -> list[tuple[Message, ...]]:
    """The different prompts of pairs and conversations, at most `limit`. `InputError` for none."""
    found = [pair.prompt for pair in pairs]
    found += [row.messages[:-1] for row in rows if row.messages[-1].role == "assistant"]
    prompts = [prompt for place, prompt in enumerate(found) if prompt and prompt not in found[:place]][:limit]
    if not prompts:
        raise InputError("a reward model has nothing to judge", where="evaluate.reward",
                         hint="give preferences or instructions, whose prompts are answered")
    return prompts


class Duels:
    """Models' answers to the same prompts, and what the reward says of them."""

    def __init__(self, reward: Reward, prompts: list[tuple[Message, ...]], max_tokens: int):
        self.reward, self.prompts, self.max_tokens = reward, prompts, max_tokens
        self.scores: dict[str, dict[int, float]] = {}           # model -> prompt -> score

    def answer(self, name: str, model: Transformer, renderer: Renderer) -> dict[str, float]:
        """Let a model answer the prompts it has room for; its mean reward."""
        rendered = {place: renderer.prompt(prompt) for place, prompt in enumerate(self.prompts)}
        ids = {place: prompt for place, prompt in rendered.items() if len(prompt) < model.config.context}
        done = complete(model, list(ids.values()), ends=renderer.ends, max_tokens=self.max_tokens)
        texts = [[renderer.tokenizer.decode(one.ids).strip()] for one in done]
        scores = self.reward([self.prompts[place] for place in ids], texts)
        self.scores[name] = {place: score for place, (score,) in zip(ids, scores, strict=True)}
        return {"reward": fmean(self.scores[name].values())} if ids else {}

    def metrics(self) -> dict[str, float]:
        """`<model>.win_rate_over_<before>` with its interval, over the prompts both have answered."""
        found = {}
        for (before, theirs), (name, ours) in pairwise(self.scores.items()):
            both = [place for place in ours if place in theirs]
            if both:
                told = tally([ours[place] for place in both], [theirs[place] for place in both])
                found |= {f"{name}.{key}": value for key, value in told.metrics(f"win_rate_over_{before}").items()}
        return found


def open_duels(folder: str, rows: list[Conversation], pairs: list[Preference], *, limit: int, max_tokens: int,
               compute: torch.dtype, device: torch.device | str = "cpu") -> Duels:
    """Duels judged by the reward model of a folder."""
    return Duels(RewardModel(Path(folder), compute=compute, device=device), asked(rows, pairs, limit), max_tokens)
