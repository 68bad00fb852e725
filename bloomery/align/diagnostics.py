"""What a rising margin hides: how far the model has moved, what it says now, whether that is better, and warnings.

At every validation a policy answers held-out prompts as it is (temperature 1).  On those answers its KL to the
reference is measured, by k1, by k3, and where the vocabulary is small by whole next-token distributions (`kl.py`); a
reward compares them with the reference's own.  `warnings` reads the metrics of a run and says in plain words what is
wrong.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

import torch
from pydantic import Field
from torch import Tensor

from bloomery.align.judging import Score, of_prompts
from bloomery.align.kl import clamped, exact_kl, k1, k3, over_answers
from bloomery.core.config import Input, Settings
from bloomery.core.metrics import progress, say
from bloomery.core.records import Problem
from bloomery.data.answers import AnswerBatch, answer_forest, tokens
from bloomery.data.likelihood import token_logps, trained
from bloomery.data.packing import best_fit_decreasing
from bloomery.data.splits import spread_out
from bloomery.generate.decode import complete
from bloomery.generate.request import Completion
from bloomery.generate.sampling import AS_IS
from bloomery.generate.scoring import RewardModel
from bloomery.generate.winrate import tally
from bloomery.model.forest import Forest
from bloomery.model.transformer import Transformer
from bloomery.text.chat import Renderer
from bloomery.train.objective import Metrics

SMALL = 8192                    # vocabulary up to which whole distributions are compared
EXACT_TOKENS = 1024             # of a batch in which they are: 34 MB of logits at the largest vocabulary
ALIKE = 0.1                     # answers whose lengths differ by a smaller share are alike in length


class WatchConfig(Settings):
    """What is looked at beside the loss, at every validation."""

    prompts: int = Field(0, ge=0, description="held-out prompts the model answers at every validation; 0: none")
    max_tokens: int = Field(64, gt=0, description="longest of these answers")
    reward: Input | None = Field(None, description="a reward model that compares them with the reference's; default: "
                                                   "what the stage itself chooses answers by, if anything")
    shown: int = Field(6, ge=0, description="answers of before and after written to answers.json")


class Watch:
    """Looks at a policy through its answers to a few prompts; call it with any state of the model.

    `reference` must stay what it was: a copy, where the model it came from is trained.  Answers are compared by
    `config.reward`, else by `score`, if there is one.
    """

    def __init__(self, reference: Transformer, renderer: Renderer, problems: Sequence[Problem], config: WatchConfig, *,
                 score: Score | None = None, seed: int = 0):
        room = reference.config.context - config.max_tokens
        rendered = [(problem, renderer.prompt(problem.prompt)) for problem in problems]
        fitting = spread_out([pair for pair in rendered if len(pair[1]) <= room], config.prompts)
        if config.prompts and problems and not fitting:
            say(f"  warning: no prompt is watched: none leaves room for watch.max_tokens={config.max_tokens}")
        self.problems, self.prompts = [problem for problem, _ in fitting], [ids for _, ids in fitting]
        self.reference, self.renderer, self.config, self.seed = reference, renderer, config, seed
        self.score = of_prompts(RewardModel(Path(config.reward), device=reference.head.weight.device)) \
            if config.reward else score
        self.before = self.texts(self.answers(reference))

    def answers(self, model: Transformer) -> list[Completion]:
        """One answer to each prompt, with the same draws for every model."""
        return complete(model, self.prompts, ends=self.renderer.ends, how=AS_IS, max_tokens=self.config.max_tokens,
                        seed=self.seed)

    def texts(self, answers: Sequence[Completion]) -> list[str]:
        return [self.renderer.tokenizer.decode(one.ids).strip() for one in answers]

    def __call__(self, model: Transformer) -> Metrics:
        """The figures of a validation; nothing where there are no prompts."""
        if not self.prompts:
            return {}
        answers = self.answers(model)
        said = [[token.id for token in one.tokens] for one in answers]
        found = sampled_kl(model, self.reference, self.prompts, said)
        found |= {"answer_tokens": fmean(map(len, said)), "finished": fmean(one.finish == "stop" for one in answers)}
        if self.score:                                          # both at once: a judge compares
            both = [list(pair) for pair in zip(self.texts(answers), self.before, strict=True)]
            ours, theirs = zip(*self.score(self.problems, both), strict=True)
            found |= {"reward": fmean(ours)} | tally(ours, theirs).metrics()
        return {f"val_{name}": value for name, value in found.items()}

    def before_and_after(self, model: Transformer) -> list[dict]:
        """Prompts with the reference's answer and the model's, as `answers.json` has them."""
        rows = zip(self.problems, self.before, self.texts(self.answers(model)), strict=True)
        return [{"prompt": problem.prompt[-1].content, "expected": problem.answer,
                 "answers": {"before": before, "after": after}} for problem, before, after in rows][:self.config.shown]


# --- KL from samples -------------------------------------------------------------------------------------------------

@torch.no_grad()
def sampled_kl(model: Transformer, reference: Transformer, prompts: Sequence[list[int]],
               answers: Sequence[list[int]]) -> Metrics:
    """KL(model || reference) of whole answers in nats, from answers the model has drawn: their mean and its error.

    `kl` is k1, `kl_k3` k3, `kl_exact` the sum over positions of the KL of the whole next-token distribution.
    """
    sizes = [tokens(prompt, [answer]) for prompt, answer in zip(prompts, answers, strict=True)]
    exact = model.config.vocabulary <= SMALL
    parts: dict[str, list[Tensor]] = {"kl": [], "kl_k3": []} | ({"kl_exact": []} if exact else {})
    owners, cut = [], 0
    bins = best_fit_decreasing(sizes, max([EXACT_TOKENS, *sizes]))
    for group in progress(bins, name="measuring the KL, batches", total=len(bins)):
        batch = answer_forest([prompts[i] for i in group], [[answers[i]] for i in group]).beside(model)
        (logp, rows), (told, _) = token_logps(model, batch), token_logps(reference, batch)
        parts["kl"].append(k1(logp, told))
        parts["kl_k3"].append(k3(logp, told))
        cut += clamped(logp, told)
        if exact:
            parts["kl_exact"].append(exact_kl(next_tokens(model, batch), next_tokens(reference, batch)))
        owners.append(torch.tensor(group)[batch.answer[rows].cpu()])
    owner = torch.cat(owners)
    found = {name: over_answers(torch.cat(values).cpu(), owner, len(answers)) for name, values in parts.items()}
    means = {name: one.mean for name, one in found.items()}
    return means | {"kl_error": found["kl"].error} | ({"kl_k3_cut": float(cut)} if cut else {})


def next_tokens(model: Transformer, batch: AnswerBatch) -> Tensor:
    """log p of every next token at the trained positions, (M, V)."""
    rows, count = trained(batch)
    hidden = model(batch.ids, batch.positions, Forest(batch.segments))
    return model.logits(hidden[rows])[:count].log_softmax(-1)


def accuracy_by_length(margins: Tensor, lengths: Tensor) -> Metrics:
    """How often a margin (P,) is right where the chosen answer of (P, 2) lengths is longer, shorter, or alike."""
    share = (lengths[:, 0] - lengths[:, 1]) / lengths.amax(1)
    kinds = {"longer": share > ALIKE, "shorter": share < -ALIKE, "alike": share.abs() <= ALIKE}
    return {f"rewards/accuracies_{kind}": float((margins[rows] > 0).double().mean())
            for kind, rows in kinds.items() if bool(rows.any())}


# --- warnings --------------------------------------------------------------------------------------------------------

Rows = Sequence[dict]


def warnings(rows: Rows) -> list[str]:
    """What is wrong with a run, in words, from the rows of its `metrics.jsonl`; nothing where nothing is."""
    return [said for warning in WARNINGS if (said := warning(rows))]


def span(rows: Rows, name: str) -> tuple[float, float] | None:
    """A metric's first and last value: of validations, else means over the first and last quarter of training."""
    for found, share in (([row[f"val_{name}"] for row in rows if f"val_{name}" in row], 0),
                         ([row[name] for row in rows if name in row], 4)):
        if len(found) > 1:
            part = max(1, len(found) // share) if share else 1
            return fmean(found[:part]), fmean(found[-part:])
    return None


def last(rows: Rows, name: str) -> float | None:
    return next((row[name] for row in reversed(rows) if name in row), None)


def chosen_falls(rows: Rows) -> str | None:
    """The known failure of DPO: both answers sink, the rejected one faster (Pal et al. 2024; Rafailov et al. 2024).

    Seen on held-out pairs, which stay the same; training's are others at every step, so there the reward is looked at,
    which counts from the reference.
    """
    margins, held_out = span(rows, "rewards/margins"), any("val_logps/chosen" in row for row in rows)
    chosen, rewards = span(rows, "logps/chosen"), span(rows, "rewards/chosen")
    if not margins or not chosen or margins[1] <= margins[0]:
        return None
    remedy = "while margins rose; nll=0.2, a larger beta or fewer steps keep them likely"
    if held_out and chosen[1] < chosen[0] - max(1.0, 0.05 * -chosen[0]):
        return f"the chosen answers have become less likely too: their log-probability fell from {chosen[0]:.1f} to " \
               f"{chosen[1]:.1f} {remedy}"
    from_reference = rewards and next(row["rewards/chosen"] for row in rows if "rewards/chosen" in row) == 0
    if not held_out and from_reference and rewards[1] < -0.1 * margins[1]:
        return f"the chosen answers have become less likely than under the reference, their reward is " \
               f"{rewards[1]:.2g}, {remedy}"
    return None


def learned_by_heart(rows: Rows) -> str | None:
    seen, held_out = span([{k: v for k, v in row.items() if not k.startswith("val_")} for row in rows],
                          "rewards/accuracies"), last(rows, "val_rewards/accuracies")
    if not seen or held_out is None or seen[1] - held_out < 0.2:
        return None
    return f"pairs it trains on are told apart in {seen[1]:.0%}, held-out ones in {held_out:.0%}: they are being " \
           "learned by heart; fewer steps, or more pairs"


def far_away(rows: Rows) -> str | None:
    kl = last(rows, "val_kl")
    return f"answers are {kl:.0f} nats from the reference: what it knew may be lost; a larger beta, or fewer steps" \
        if kl is not None and kl > 20 else None


def length_drifts(rows: Rows) -> str | None:
    lengths = span(rows, "answer_tokens")
    if not lengths or not lengths[0] or 2 / 3 < lengths[1] / lengths[0] < 1.5:
        return None
    word = "longer" if lengths[1] > lengths[0] else "shorter"
    return f"answers have become much {word}: {lengths[0]:.0f} tokens before, {lengths[1]:.0f} now; look whether the " \
           f"{word} answer is merely the preferred one in the data, and consider a length-controlled loss"


def does_not_end(rows: Rows) -> str | None:
    ends = span(rows, "finished")
    return f"{1 - ends[1]:.0%} of the answers are cut off before they end, {1 - ends[0]:.0%} were before" \
        if ends and ends[0] - ends[1] > 0.2 else None


def by_length(rows: Rows) -> str | None:
    longer, shorter = (last(rows, f"val_rewards/accuracies_{kind}") for kind in ("longer", "shorter"))
    if longer is None or shorter is None or abs(longer - shorter) < 0.3:
        return None
    better = "longer" if longer > shorter else "shorter"
    return f"right in {longer:.0%} of the pairs whose chosen answer is the longer one, in {shorter:.0%} where it is " \
           f"the shorter: it may have learned to prefer what is {better}"


def got_worse(rows: Rows) -> str | None:
    rate, high = last(rows, "val_win_rate"), last(rows, "val_win_rate_high")
    return f"the reward model finds the answers worse than before: they win {rate:.0%} (at most {high:.0%})" \
        if high is not None and high < 0.5 else None


WARNINGS: tuple[Callable[[Rows], str | None], ...] = (
    chosen_falls, learned_by_heart, far_away, length_drifts, does_not_end, by_length, got_worse)
