"""A look at a policy beside its training: held-out prompts, what its answers earn, how far it is from its reference.

Answers are drawn as the model is (temperature 1, no cuts), the same draws at every look, and, where wanted, the
likeliest are taken too.  The first look, at the reference, is what later ones win or lose against, by the reward and,
where there is one, by gold.
"""

import math
from collections.abc import Sequence
from statistics import fmean

from pydantic import Field

from bloomery.align.kl import k1, k3, over_answers
from bloomery.align.rewards import Rewards, Told
from bloomery.align.rollout import Actor, Asked, Group, Reader
from bloomery.core.config import Settings
from bloomery.generate.winrate import tally
from bloomery.model.transformer import Transformer
from bloomery.train.objective import Metrics

NEVER = -1                      # the "step" of draws that belong to no step


class LookConfig(Settings):
    """What is looked at at every validation."""

    prompts: int = Field(64, ge=0, description="held-out prompts that are answered; 0: none")
    samples: int = Field(1, gt=0, description="answers drawn to each; a KL budget may want more")
    greedy: bool = Field(True, description="also the likeliest answer to each: val_greedy_reward")
    shown: int = Field(6, ge=0, description="answers of before and after written to answers.json")


class Look:
    """Looks at any state of a policy. `rewards` scores groups, `gold` too but is never learned from."""

    def __init__(self, asked: Sequence[Asked], drawn: Actor, likeliest: Actor | None, rewards: Rewards | None,
                 gold: Rewards | None, read: Reader | None):
        self.asked, self.drawn, self.likeliest, self.rewards, self.gold, self.read = \
            asked, drawn, likeliest, rewards, gold, read
        self.before: dict[str, Told] = {}               # by "" the reward, by "gold_" gold
        self.texts: list[str] = []

    def begin(self, reference: Transformer) -> None:
        """What the reference earns, against which wins are counted."""
        groups = self.drawn(reference, self.asked, step=NEVER)
        self.texts = [group.trajectories[0].text for group in groups]
        self.before = self.judged(groups)

    def judged(self, groups: Sequence[Group]) -> dict[str, Told]:
        return {"": scored(groups, self.rewards)} | ({"gold_": scored(groups, self.gold)} if self.gold else {})

    def __call__(self, policy: Transformer) -> Metrics:
        if not self.asked:
            return {}
        groups = self.drawn(policy, self.asked, step=NEVER)
        every = [one for group in groups for one in group.trajectories]
        judged = self.judged(groups)
        told = judged[""]
        found = {"reward": known_mean(told), "answer_tokens": fmean(one.spoken for one in every),
                 "finished": fmean(one.finished for one in every),
                 **{f"rewards/{name}": mean_of(table) for name, table in told.parts.items()}}
        if self.gold:
            found["gold"] = known_mean(judged["gold_"])
        if self.likeliest:
            found["greedy_reward"] = known_mean(scored(self.likeliest(policy, self.asked, step=NEVER), self.rewards))
        for name, before in self.before.items():
            found |= wins(judged[name], before, f"{name}win_rate")
        if self.read:
            found |= distance(groups, self.read)
        return {f"val_{name}": value for name, value in found.items()}

    def before_and_after(self, policy: Transformer, count: int) -> list[dict]:
        """Prompts with the reference's answer and the policy's, as `answers.json` has them."""
        groups = self.drawn(policy, self.asked[:count], step=NEVER)
        return [{"prompt": group.problem.prompt[-1].content, "expected": group.problem.answer,
                 "answers": {"before": text, "after": group.trajectories[0].text}}
                for group, text in zip(groups, self.texts or [""] * len(groups), strict=False)]


def scored(groups: Sequence[Group], rewards: Rewards | None) -> Told:
    """What trajectories earn; what worlds have paid is added, and alone where there is no other reward."""
    paid = [[one.reward for one in group.trajectories] for group in groups]
    if rewards is None:
        return Told(paid, {"environment": paid})
    told = rewards([group.problem for group in groups], [[one.text for one in g.trajectories] for g in groups],
                   [[one.finished for one in g.trajectories] for g in groups],
                   lengths=[[one.spoken for one in g.trajectories] for g in groups])
    if not any(map(any, paid)):
        return told
    total = [[None if value is None else value + more for value, more in zip(*pair, strict=True)]
             for pair in zip(told.total, paid, strict=True)]
    return Told(total, told.parts | {"environment": paid}, told.failures, told.disagreement)


def wins(ours: Told, theirs: Told, name: str) -> Metrics:
    """How often one answer earns more than another to the same prompt, of those that earn anything at all."""
    pairs = [pair for rows in zip(ours.total, theirs.total, strict=True) for pair in zip(*rows, strict=True)
             if None not in pair]
    return tally(*zip(*pairs, strict=True)).metrics(name) if pairs else {}


def distance(groups: Sequence[Group], read: Reader) -> Metrics:
    """KL(policy || reference) of whole answers: by k1 with its error, and by k3."""
    every = [one for group in groups for one in group.trajectories]
    logp, reference = read(groups)
    answer = [place for place, one in enumerate(every) for _ in range(one.spoken)]
    owner = logp.new_tensor(answer).long()
    found = over_answers(k1(logp, reference), owner, len(every))
    return {"kl": found.mean, "kl_error": found.error,
            "kl_k3": over_answers(k3(logp, reference), owner, len(every)).mean}


def mean_of(table: Sequence[Sequence[float | None]]) -> float:
    values = [value for row in table for value in row if value is not None]
    return fmean(values) if values else math.nan


def known_mean(told: Told) -> float:
    return mean_of(told.total)
