"""The reward of reinforcement learning: named parts with weights, and what length and a missing end cost.

    R(x, y) = sum_i w_i r_i(x, y) - e [y has no end] - c |y| - o min(1, max(0, (|y| - soft) / (hard - soft)))

A part is whatever `judging.py` opens: reward models, a verifier, a function, a judge.  One that has nothing to say of
an answer (None) is left out of its sum; an answer of which no part says anything has no reward, None, and must not be
learned from.  The last term is DAPO's soft overlong punishment (Yu et al. 2025, eq. 13), the first penalty the EOS
trick of Stiennon et al. 2020.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean, pstdev

import torch
from pydantic import Field, model_validator

from bloomery.align.judging import Checked, Members, Problems, RewardConfig, Score, part
from bloomery.core.artifacts import write_atomic
from bloomery.core.errors import InputError
from bloomery.generate.scoring import Completions
from bloomery.train.team import Team

Table = list[list[float | None]]            # (P, G): a number, or None, for each answer to each prompt


class PartConfig(RewardConfig):
    """One part of a reward and what it counts."""

    weight: float = Field(1.0, description="what this part counts; below 0 it is a penalty")
    standardise: bool = Field(False, description="in units of its spread over the first answers there are")


class RewardsConfig(PartConfig):
    """What answers earn: one reward, or several as `parts.NAME`, and what length costs."""

    parts: dict[str, PartConfig] = Field({}, description="name = a reward with a weight")
    missing_end: float = Field(0.0, ge=0, description="taken off an answer that never came to its end")
    length_cost: float = Field(0.0, description="taken off for every token")
    overlong: float = Field(0.0, ge=0, description="taken off, in full, from an answer of hard_limit tokens (DAPO)")
    soft_limit: int = Field(0, ge=0, description="tokens up to which overlong takes nothing")
    hard_limit: int = Field(0, ge=0, description="tokens from which overlong takes all")
    clip: float | None = Field(None, gt=0, description="the weighted sum stays between -clip and clip")

    @property
    def named(self) -> dict[str, PartConfig]:
        """All parts by name; the one given beside `parts` is called by what it is."""
        own = {} if self.chosen is None else {self.verifier or self.chosen: self}
        return own | self.parts

    @model_validator(mode="after")
    def is_one(self) -> "RewardsConfig":
        given = [name for name in ("models", "verifier", "function", "judge") if getattr(self, name)]
        if len(given) > 1 or not given and not self.parts:
            raise ValueError(f"one reward is needed, not {' and '.join(given) or 'none'}: models=FOLDER, "
                             "verifier=number, function=FILE.py or judge=FOLDER; several stand in parts.NAME")
        if len(self.named) < len(self.parts) + len(given):
            raise ValueError(f"two parts are called {self.verifier or self.chosen}: give the one in parts another name")
        if self.overlong and not self.soft_limit < self.hard_limit:
            raise ValueError(f"overlong needs soft_limit < hard_limit, got {self.soft_limit} and {self.hard_limit}")
        return self


@dataclass(frozen=True)
class Told:
    """What answers earned: in all, and by each part before weighting."""

    total: Table
    parts: dict[str, Table]
    failures: dict[str, int] = field(default_factory=dict)          # by part: answers it failed on, which score 0
    disagreement: float | None = None                               # of an ensemble's members

    def figures(self) -> dict[str, float]:
        """TRL's `rewards/{part}/mean` and `/std`, and ours: `rewards/failures`, `rewards/missing` (both shares of the
        answers) and `rewards/disagreement`."""
        found = {}
        for name, table in self.parts.items():
            values = [value for group in table for value in group if value is not None]
            found |= {f"rewards/{name}/mean": fmean(values) if values else math.nan,
                      f"rewards/{name}/std": pstdev(values) if values else math.nan}
        totals = [value for group in self.total for value in group]
        found["rewards/missing"] = sum(value is None for value in totals) / max(1, len(totals))
        if self.failures:
            found["rewards/failures"] = sum(self.failures.values()) / max(1, len(totals) * len(self.failures))
        return found | ({} if self.disagreement is None else {"rewards/disagreement": self.disagreement})


class Rewards:
    """All parts of a reward, opened. Call it with problems, answers, and which of them came to their end.

    Of a team rank 0 scores and tells the others: where a check runs out of time, or a server says something else the
    second time, ranks that scored for themselves would learn from different numbers, and wait for each other for ever.
    """

    def __init__(self, config: RewardsConfig, scores: dict[str, Score], scales: Path, team: Team | None = None):
        self.config, self.scores, self.scales, self.team = config, scores, scales, team or Team()

    def __call__(self, problems: Problems, completions: Completions, finished: Sequence[Sequence[bool]], *,
                 lengths: Sequence[Sequence[int]] | None = None) -> Told:
        """Rewards of G answers to each of P problems; `lengths` (P, G) in tokens are needed where length costs."""
        if (self.config.overlong or self.config.length_cost) and lengths is None:
            raise ValueError("a reward in which length costs needs the lengths of the answers")
        told = self.scored(problems, completions, finished, lengths) if self.team.leads else None
        return Told(**self.team.broadcast(told and asdict(told)))

    def scored(self, problems: Problems, completions: Completions, finished: Sequence[Sequence[bool]],
               lengths: Sequence[Sequence[int]] | None) -> Told:
        parts = {name: self.told(name, score(problems, completions)) for name, score in self.scores.items()}
        total = [[self.shaped([parts[name][row][at] for name in parts], finished[row][at],
                              lengths[row][at] if lengths else 0) for at in range(len(group))]
                 for row, group in enumerate(completions)]
        failures = {name: score.failures.total() for name, score in self.scores.items() if isinstance(score, Checked)}
        spreads = [score.disagreement for score in self.scores.values() if isinstance(score, Members)]
        return Told(total, parts, failures, fmean(spreads) if spreads else None)

    def shaped(self, says: list[float | None], finished: bool, length: int) -> float | None:
        """One answer's reward from what the parts say of it."""
        weights = [own.weight for own in self.config.named.values()]
        heard = [weight * value for weight, value in zip(weights, says, strict=True) if value is not None]
        if not heard:
            return None
        config, total = self.config, math.fsum(heard)
        if config.clip is not None:
            total = max(-config.clip, min(config.clip, total))
        return total - config.missing_end * (not finished) - config.length_cost * length - \
            config.overlong * overlong(length, config.soft_limit, config.hard_limit)

    def told(self, name: str, scores: Table) -> Table:
        """A part's scores as they are, or standardised; finite, or `FloatingPointError`."""
        values = [value for group in scores for value in group if value is not None]
        if not all(map(math.isfinite, values)):
            raise FloatingPointError(f"the reward {name} is not finite")
        if not self.config.named[name].standardise:
            return scores
        path = self.scales.with_name(f"{self.scales.stem}-{name}-spread.json")
        if not path.exists():
            if len(values) < 2 or not pstdev(values):
                raise InputError("a reward cannot be standardised", where=f"reward {name}",
                                 why=f"its first {len(values)} scores do not differ",
                                 hint="leave standardise out, or begin with answers of different quality")
            write_atomic(path, json.dumps([fmean(values), pstdev(values)]))
        mean, deviation = json.loads(path.read_text())
        return [[None if value is None else (value - mean) / deviation for value in group] for group in scores]


def overlong(length: int, soft: int, hard: int) -> float:
    """0 up to `soft` tokens, 1 from `hard`, a line between. DAPO, eq. 13, with soft = L_max - L_cache, hard = L_max."""
    return min(1.0, max(0.0, (length - soft) / (hard - soft))) if hard > soft else 0.0


def opened(config: RewardsConfig, *, scales: Path, compute: torch.dtype, team: Team | None = None,
           device: torch.device | str = "cpu") -> Rewards:
    """The parts that are configured; ensembles and standardised parts keep their scales in files beside `scales`."""
    parts = config.named if team is None or team.leads else {}
    files = {name: scales if len(parts) == 1 else scales.with_name(f"{scales.stem}-{name}.json") for name in parts}
    return Rewards(config, {name: part(own, scales=files[name], compute=compute, device=device)
                            for name, own in parts.items()}, scales, team)
