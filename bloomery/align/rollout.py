"""Acting: prompts in, trajectories out, each token with the log-probability it was drawn with.

The ids are kept as they were drawn and are never made again from text.  A group is a prompt and its trajectories: a
prefix with children, as everywhere here.  What is drawn depends on nothing but the weights and (seed, step, place,
sample, turn), so that a run that goes on after a stop draws what it would have drawn.  Under `torchrun` every rank
draws for its share of the prompts and tells the others.

A `Source` is whatever acts: the engine here (`Actor`), or answers that are dictated (`Forced`).
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from typing import Protocol

import torch
from torch import Tensor

from bloomery.align.environment import Environment, Reply
from bloomery.align.spoken import spoken
from bloomery.core.errors import InputError
from bloomery.core.records import Message, Problem
from bloomery.data.answers import AnswerBatch, answer_forest, tokens
from bloomery.data.packing import best_fit_decreasing
from bloomery.generate.engine import Engine
from bloomery.generate.request import Completion, Request
from bloomery.generate.sampling import AS_IS, Sampling
from bloomery.model.transformer import Transformer
from bloomery.text.chat import Renderer
from bloomery.train.team import Team


@dataclass
class Trajectory:
    """What was said after a prompt: ids as they were drawn, and of each the log-probability it was drawn with.

    Tokens that are not the policy's `own` are a world's replies: they are read and never learned.
    """

    ids: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)
    own: list[bool] = field(default_factory=list)
    text: str = ""
    finish: str = ""                    # "stop": it came to its end; "length": it was cut off
    reward: float = 0.0                 # what a world has paid

    def add(self, ids: Sequence[int], logps: Sequence[float], *, own: bool) -> None:
        self.ids += ids
        self.logps += logps
        self.own += [own] * len(ids)

    @property
    def finished(self) -> bool:
        return self.finish == "stop"

    @property
    def spoken(self) -> int:
        """Tokens of its own: those that are learned."""
        return sum(self.own)


@dataclass(frozen=True)
class Group:
    """A prompt and what was said after it."""

    problem: Problem
    prompt: list[int]
    trajectories: list[Trajectory]

    @property
    def tokens(self) -> int:
        return tokens(self.prompt, [one.ids for one in self.trajectories])

    @property
    def spoken(self) -> int:
        return sum(one.spoken for one in self.trajectories)


@dataclass(frozen=True)
class Asked:
    """A prompt to act on: `place` is its number in the step, which its draws depend on."""

    problem: Problem
    prompt: list[int]
    place: int


Reader = Callable[[Sequence["Group"]], Sequence[Tensor]]       # figures of the own tokens of all groups, (M,) each


class Source(Protocol):
    def __call__(self, policy: Transformer, asked: Sequence[Asked], *, step: int) -> list[Group]:
        """A group for every prompt."""
        ...


def draw_seed(*parts: int) -> int:
    """A seed that belongs to these numbers and to no others."""
    return int.from_bytes(blake2b(repr(parts).encode(), digest_size=8).digest(), "little")


class Actor:
    """Acts with an engine that serves the policy's own weights: where they share storage nothing is copied."""

    def __init__(self, engine: Engine, renderer: Renderer, how: Sampling, *, samples: int, max_tokens: int,
                 seed: int = 0, world: type[Environment] | None = None, team: Team | None = None):
        self.engine, self.renderer, self.how, self.samples, self.max_tokens = engine, renderer, how, samples, max_tokens
        self.seed, self.world, self.team = seed, world, team or Team()

    def __call__(self, policy: Transformer, asked: Sequence[Asked], *, step: int) -> list[Group]:
        self.engine.load(policy)
        own = [asked[i] for i in self.team.share(len(asked))]
        drawn = self._episodes(own, step) if self.world else self._answers(own, step)
        told = self.team.gather([[asdict(one) for one in group] for group in drawn])
        every = [[Trajectory(**one) for one in group] for said in told for group in said]
        return [Group(one.problem, one.prompt, group) for one, group in zip(asked, every, strict=True)]

    def otherwise(self, how: Sampling, *, samples: int) -> "Actor":
        """The same with another way to draw, by the same engine."""
        return Actor(self.engine, self.renderer, how, samples=samples, max_tokens=self.max_tokens, seed=self.seed,
                     world=self.world, team=self.team)

    def _request(self, ids: list[int], seed: int, *, n: int = 1, said: int = 0) -> Request:
        room = min(self.max_tokens - said, self.engine.context - len(ids))
        return Request(tuple(ids), room, how=self.how, n=n, seed=seed, ends=self.renderer.ends,
                       stops=self.world.stops if self.world else ())

    def _answers(self, asked: Sequence[Asked], step: int) -> list[list[Trajectory]]:
        requests = (self._request(one.prompt, draw_seed(self.seed, step, one.place), n=self.samples) for one in asked)
        return [[trajectory(answer) for answer in group] for group in self.engine.generate(requests)]

    # --- episodes of more than one turn -----------------------------------------------------------------------------

    def _episodes(self, asked: Sequence[Asked], step: int) -> list[list[Trajectory]]:
        """Wave after wave: all that go on are drawn together, then each world replies."""
        groups = [[Trajectory() for _ in range(self.samples)] for _ in asked]
        going = [(one, sample, found, self._begun(one)) for one, group in zip(asked, groups, strict=True)
                 for sample, found in enumerate(group)]
        turn = 0
        while going:
            requests = (self._request(one.prompt + found.ids, draw_seed(self.seed, step, one.place, sample, turn),
                                      said=len(found.ids)) for one, sample, found, _ in going)
            answers = [answer for (answer,) in self.engine.generate(requests)]
            going = [episode for episode, answer in zip(going, answers, strict=True)
                     if self._goes_on(*episode, answer)]
            turn += 1
        return groups

    def _begun(self, one: Asked) -> Environment:
        world = self.world()
        world.reset(one.problem)
        return world

    def _goes_on(self, asked: Asked, sample: int, found: Trajectory, world: Environment, answer: Completion) -> bool:
        """Put what was said and what the world replies behind an episode; whether there is more to say."""
        found.add([token.id for token in answer.tokens], [token.logp for token in answer.tokens], own=True)
        ended = answer.finish == "stop" and answer.matched is None
        said = found.ids[:-1] if ended else found.ids
        found.text = self.renderer.tokenizer.decode(said).strip()
        found.finish = answer.finish
        reply = world.step(found.text) if answer.finish == "stop" else None
        found.reward += reply.reward if reply else 0.0
        more = self._read(asked, reply, ended=ended) if reply else None
        if more is None:
            return False
        if len(found.ids) + len(more) >= self.max_tokens or \
                len(asked.prompt) + len(found.ids) + len(more) >= self.engine.context:
            found.finish = "length"
            return False
        found.add(more, [0.0] * len(more), own=False)
        return True

    def _read(self, asked: Asked, reply: Reply, *, ended: bool) -> list[int] | None:
        """The ids of a reply; None where the episode is over."""
        if reply.messages:
            return replied(self.renderer, asked.problem.prompt, reply.messages)
        if ended:
            return None
        return self.renderer.tokenizer.piece(reply.text, inside=True) if reply.text else []


def replied(renderer: Renderer, prompt: tuple[Message, ...], reply: tuple[Message, ...]) -> list[int]:
    """What stands between a turn's end and the next one's beginning. It does not depend on what the turn said.

    `InputError` where the template writes turns otherwise once a dialogue goes on: then the drawn ids were no prefix.
    """
    before = renderer.prompt(prompt) + renderer.answer("x")
    found = renderer.prompt((*prompt, Message("assistant", "x"), *reply))
    if found[:len(before)] != before:
        raise InputError("this chat template cannot go on from drawn tokens", where=renderer.template.name,
                         why="it writes an assistant's turn otherwise once the dialogue goes on",
                         hint='template="chatml", or another of text/templates.py')
    return found[len(before):]


def trajectory(answer: Completion) -> Trajectory:
    found = Trajectory(text=answer.text.strip(), finish=answer.finish)
    found.add([token.id for token in answer.tokens], [token.logp for token in answer.tokens], own=True)
    return found


class Forced:
    """Says what it is told: `answers(problem, step)` are the ids of a group. For tests, and to compare trainers."""

    def __init__(self, renderer: Renderer, answers: Callable[[Problem, int], Sequence[Sequence[int]]], *,
                 how: Sampling = AS_IS):
        self.renderer, self.answers, self.how = renderer, answers, how

    def __call__(self, policy: Transformer, asked: Sequence[Asked], *, step: int) -> list[Group]:
        return [self._group(policy, one, self.answers(one.problem, step)) for one in asked]

    @torch.no_grad()
    def _group(self, policy: Transformer, asked: Asked, answers: Sequence[Sequence[int]]) -> Group:
        group = Group(asked.problem, asked.prompt, [Trajectory() for _ in answers])
        ends = self.renderer.ends
        batch = answer_forest([asked.prompt], [[list(ids) for ids in answers]]).beside(policy)
        logps = spoken(policy, batch, self.how).logp
        for one, ids, own in zip(group.trajectories, answers, logps.split(list(map(len, answers))), strict=True):
            one.add(list(ids), own.tolist(), own=True)
            one.finish = "stop" if ids[-1] in ends else "length"
            one.text = self.renderer.tokenizer.decode(list(ids[:-1] if one.finished else ids)).strip()
        return group


# --- groups as forests ----------------------------------------------------------------------------------------------

def forest_of(groups: Sequence[Group]) -> AnswerBatch:
    """Groups as one batch; the trained positions are the policy's own tokens, in the order of the trajectories."""
    batch = answer_forest([group.prompt for group in groups], [[one.ids for one in g.trajectories] for g in groups])
    own = torch.tensor([mine for group in groups for one in group.trajectories for mine in one.own])
    batch.weights[batch.answer >= 0] = own.float()
    return batch


def bins_of(groups: Sequence[Group], micro_tokens: int) -> list[list[int]]:
    """Which groups go through the model together."""
    sizes = [group.tokens for group in groups]
    return best_fit_decreasing(sizes, max([micro_tokens, *sizes]))


@torch.no_grad()
def read_groups(read: Callable[[AnswerBatch], Sequence[Tensor]], groups: Sequence[Group], micro_tokens: int,
                team: Team) -> list[Tensor]:
    """Figures of the policy's own tokens of all groups, (M,) each, in their order; the ranks share the reading."""
    bins = bins_of(groups, micro_tokens)
    batches = (forest_of([groups[i] for i in bins[place]]).to(team.device) for place in team.share(len(bins)))
    told = team.gather([[figure.tolist() for figure in read(batch)] for batch in batches])
    apart: dict[int, list[list[float]]] = {}
    for numbers, figures in zip(bins, (each for said in told for each in said), strict=True):
        at = 0
        for i in numbers:
            apart[i] = [figure[at:at + groups[i].spoken] for figure in figures]
            at += groups[i].spoken
    return [torch.tensor([x for i in range(len(groups)) for x in apart[i][k]]) for k in range(len(apart[0]))]
