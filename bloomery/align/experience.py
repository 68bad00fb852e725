"""What was acted and scored, as batches to learn from: every drawn token with its advantage and its weight.

A step's groups are dealt into `minibatches` anew in every epoch, in an order that is a function of (seed, step,
epoch); a group stays together, so that its prompt is computed once.  One minibatch is one update, in as many forests
as memory wants.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import torch
from torch import Tensor

from bloomery.align.rollout import Group, bins_of, forest_of
from bloomery.data.answers import AnswerBatch
from bloomery.data.stream import samples
from bloomery.losses.advantage import DENOMINATORS


@dataclass(frozen=True)
class PolicyBatch(AnswerBatch):
    """Groups as a forest, with what training needs to know of each of their own tokens; 0 elsewhere."""

    old: Tensor             # (N,) float32 log p before this step's first update, as the trainer has it
    behaviour: Tensor       # (N,) float32 log p as it was drawn
    reference: Tensor       # (N,) float32 log p under the reference
    advantage: Tensor       # (N,) float32
    values: Tensor          # (N,) float32 what the critic expected before this step's first update
    returns: Tensor         # (N,) float32 what it should have expected
    beta: float             # weight of the KL in the loss
    share: float            # count of the minibatch / its tokens: turns a sum over tokens into their mean


@dataclass
class Experience:
    """A step's groups and figures of their own tokens, (M,) each, group after group; what is not needed is zeros."""

    groups: list[Group]
    behaviour: Tensor
    kept: list[bool]                    # which trajectories are learned from, (A,)
    old: Tensor = field(init=False)
    reference: Tensor = field(init=False)
    advantage: Tensor = field(init=False)
    values: Tensor = field(init=False)
    returns: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.old = self.behaviour
        self.reference, self.advantage, self.values, self.returns = torch.zeros(4, len(self.behaviour))

    @property
    def lengths(self) -> Tensor:
        """Own tokens of every trajectory, (A,)."""
        return torch.tensor([one.spoken for group in self.groups for one in group.trajectories])

    def to_tokens(self, answers: Tensor) -> Tensor:
        """A number of every trajectory (A,) at each of its tokens, (M,)."""
        return answers.float().repeat_interleave(self.lengths)


PER_TOKEN = ("old", "behaviour", "reference", "advantage", "values", "returns")


def experience(groups: list[Group], *, mask_overlong: bool = False) -> Experience:
    """Groups before anything else is known of them. If `mask_overlong`, what was cut off is not learned from."""
    every = [one for group in groups for one in group.trajectories]
    behaviour = torch.tensor([logp for one in every for logp, own in zip(one.logps, one.own, strict=True) if own])
    return Experience(groups, behaviour, [one.finished or not mask_overlong for one in every])


def minibatches(found: Experience, *, parts: int, epoch: int, step: int, seed: int, micro_tokens: int,
                normalise: str, longest: int, beta: float) -> list[list[PolicyBatch]]:
    """The updates of one epoch, each a list of forests. A part from which nothing can be learned is empty."""
    count = len(found.groups)
    order = samples(0, count, count, seed * 1_000_003 + step * 1009 + epoch).tolist()
    starts, answers = [0], [0]
    for group in found.groups:
        starts.append(starts[-1] + group.spoken)
        answers.append(answers[-1] + len(group.trajectories))
    flat = {name: getattr(found, name) for name in PER_TOKEN}

    def dealt(numbers: list[int]) -> list[PolicyBatch]:
        groups = [found.groups[i] for i in numbers]
        kept = torch.tensor([found.kept[a] for i in numbers for a in range(answers[i], answers[i + 1])])
        own = torch.tensor([one.spoken for group in groups for one in group.trajectories])
        of_group = torch.arange(len(groups)).repeat_interleave(
            torch.tensor([len(group.trajectories) for group in groups]))
        lengths = own * kept
        if not int(lengths.sum()):
            return []
        weights, counts = DENOMINATORS[normalise](lengths, of_group, longest)
        share = float(counts.sum() / lengths.sum())
        batches = []
        for bin_ in bins_of(groups, micro_tokens):
            here = torch.cat([(of_group == i).nonzero()[:, 0] for i in bin_])           # its answers, in its order
            tokens = {name: torch.cat([x[starts[numbers[i]]:starts[numbers[i] + 1]] for i in bin_])
                      for name, x in flat.items()}
            batches.append(policy_batch([groups[i] for i in bin_], tokens, (weights * kept)[here],
                                        float(counts[here].sum()), beta=beta, share=share))
        return batches

    bounds = [count * part // parts for part in range(parts + 1)]
    return [dealt(order[first:last]) for first, last in zip(bounds[:-1], bounds[1:], strict=True)]


def policy_batch(groups: Sequence[Group], tokens: dict[str, Tensor], weights: Tensor, count: float, *, beta: float,
                 share: float) -> PolicyBatch:
    """Groups as a forest with figures of their own tokens (M,) and a weight for each answer (A,)."""
    batch = forest_of(groups)
    rows = batch.weights.nonzero()[:, 0]
    spread = {name: torch.zeros(len(batch.ids)).index_copy(0, rows, x) for name, x in tokens.items()}
    batch.weights[rows] = weights.float()[batch.answer[rows]]
    own = {each.name: getattr(batch, each.name) for each in fields(batch)}
    return PolicyBatch(**own | {"count": count}, **spread, beta=beta, share=share)
