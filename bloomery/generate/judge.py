"""A language model as the judge of answers: which of two is better, asked in both orders.

    p(A better) = (softmax(l_AB)[first] + softmax(l_BA)[second]) / 2

where l are the log-probabilities of the two option letters after the question, A shown first or second.  A judge that
only likes what stands first says 0.5 (Bai et al. 2022, section 4.1; Lee et al. 2023, section 2).  Every answer is
compared with every other to the same prompt, and scores how often it wins; nothing is generated, so that there is
nothing to misread.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import torch

from bloomery.core.errors import InputError
from bloomery.core.records import Message
from bloomery.data.likelihood import score_answers
from bloomery.generate.scoring import Completions, Prompts, Scores
from bloomery.model.store import load_model
from bloomery.text.chat import load_renderer

QUESTION = ("Here are a conversation and two answers to it. Which answer is better?\n\n{prompt}\n\n"
            "Answer A: {first}\n\nAnswer B: {second}\n\nSay A or B.")
OPTIONS = ("A", "B")
PART = re.compile(r"\{(prompt|first|second)\}")


@dataclass(frozen=True)
class Verdict:
    """How likely the first of two answers is the better one: where it was shown first, and where second."""

    shown_first: float
    shown_second: float

    @property
    def p(self) -> float:
        return (self.shown_first + self.shown_second) / 2

    @property
    def consistent(self) -> bool:
        """Whether the order made no difference to who won."""
        return (self.shown_first > 0.5) == (self.shown_second > 0.5)


def verdict(shown_first: Sequence[float], shown_second: Sequence[float]) -> Verdict:
    """From the log-probabilities of the letters (first, second): an answer shown first, then shown second."""
    return Verdict(share(*shown_first), share(*reversed(shown_second)))


def share(ours: float, theirs: float) -> float:
    """exp(ours) / (exp(ours) + exp(theirs))."""
    larger = max(ours, theirs)
    if not math.isfinite(larger):
        raise FloatingPointError(f"the judge's log-probabilities are {ours} and {theirs}")
    return math.exp(ours - larger) / (math.exp(ours - larger) + math.exp(theirs - larger))


class Judge:
    """The judge of a model folder that chats. A `Reward`: an answer's score is its mean chance to beat another's.

    `asked` and `inconsistent` count comparisons, and those whose winner depended on the order.
    """

    def __init__(self, folder: Path, *, question: str = QUESTION, compute: torch.dtype = torch.float32,
                 device: torch.device | str = "cpu"):
        if missing := [name for name in ("prompt", "first", "second") if name not in PART.findall(question)]:
            raise InputError("a judge's question lacks a part", why=f"{{{missing[0]}}} does not stand in it",
                             hint="it is filled in with {prompt}, {first} and {second}")
        self.model, self.renderer = load_model(Path(folder), compute=compute).to(device), load_renderer(Path(folder))
        self.question, self.asked, self.inconsistent = question, 0, 0
        self.letters = [self.renderer.answer(letter)[:-1] for letter in OPTIONS]

    def __call__(self, prompts: Prompts, completions: Completions) -> Scores:
        duels = [(row, i, j) for row, group in enumerate(completions) for i, j in combinations(range(len(group)), 2)]
        questions = [self.rendered(prompts[row], completions[row][i], completions[row][j])
                     for row, one, other in duels for i, j in ((one, other), (other, one))]
        logps = score_answers(self.model, questions, [self.letters] * len(questions), sums=torch.float64)
        wins = [[0.0] * len(group) for group in completions]
        for (row, i, j), first, second in zip(duels, logps[::2], logps[1::2], strict=True):
            found = verdict(first, second)
            wins[row][i] += found.p
            wins[row][j] += 1 - found.p
            self.inconsistent += not found.consistent
        self.asked += len(duels)
        return [[total / (len(group) - 1) if len(group) > 1 else 0.5 for total in group] for group in wins]

    def rendered(self, prompt: Sequence[Message], first: str, second: str) -> list[int]:
        said = "\n\n".join(f"{message.role}: {message.content}" for message in prompt)
        parts = {"prompt": said, "first": first, "second": second}
        text = PART.sub(lambda found: parts[found[1]], self.question)       # once: what is put in is not looked at
        ids = self.renderer.prompt((Message("user", text),))
        longest = max(map(len, self.letters))
        if len(ids) + longest > self.model.config.context:
            raise InputError("a question to the judge does not fit",
                             why=f"it has {len(ids)} tokens, the judge reads {self.model.config.context - longest}",
                             hint="generate fewer tokens, or take a judge with a longer context")
        return ids
