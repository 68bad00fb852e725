"""From a batch of answers to a preference loss: which loss, of which numbers, and what is told of them.

    total = sum_pairs loss(h_w, h_l) + nll * -log pi(y_w|x) / |y_w|        (the second term: Pang et al. 2024, RPO)

Votes are soft labels in every loss: with a share s of them the loss is s loss(h_w, h_l) + (1 - s) loss(h_l, h_w).
The reference's log-probabilities come with the batch, or from the model itself with its adapter off.
"""

from collections.abc import Callable, Sequence
from inspect import Parameter, signature
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from bloomery.align.diagnostics import accuracy_by_length
from bloomery.align.pairs import Items, Pair, Rated
from bloomery.core.config import Settings
from bloomery.data.answers import PreferenceBatch, RatingBatch, ReferencedBatch
from bloomery.data.likelihood import answer_logps
from bloomery.losses.preference import (
    DIVERGENCES,
    NLL,
    PAIRWISE,
    PER_TOKEN,
    REFERENCE_FREE,
    UNPAIRED,
    baseline,
    log_odds,
)
from bloomery.model.lora import using
from bloomery.model.transformer import Transformer
from bloomery.train.objective import Metrics, Objective

Reference = Callable[[Transformer, ReferencedBatch], Tensor]    # the reference's log-probabilities of a batch's answers


def takes(loss: str) -> dict[str, Any]:
    """The options of a loss and their defaults, its paper's."""
    found = signature((PAIRWISE | UNPAIRED)[loss]).parameters.values()
    return {each.name: each.default for each in found if each.kind is Parameter.KEYWORD_ONLY}


class LossConfig(Settings):
    """What is minimised. Options that a loss does not have are refused; beta and its own start at its paper's."""

    loss: Literal[*PAIRWISE, *UNPAIRED] = Field("dpo", description="what is minimised")
    beta: float = Field(0.1, gt=0, description="how strongly the policy is tied to the reference: 0.1, of simpo 2")
    smoothing: float = Field(0.0, ge=0, lt=0.5, description="dpo, robust, exo: chance that a label is flipped (cDPO)")
    margin: float = Field(0.0, ge=0, description="dpo, robust, hinge, simpo: by how much a reward should be higher")
    margin_scale: float = Field(0.0, ge=0, description="the same: how much of each pair's own margin is added (ODPO)")
    length_penalty: float = Field(0.0, ge=0, description="the same: what a token more is worth in reward (R-DPO)")
    tail: float = Field(1.0, ge=0, le=1, description="what tokens count beyond the shorter answer's length (LD-DPO)")
    divergence: Literal[*DIVERGENCES] = Field("reverse_kl", description="what ties to the reference (f-DPO)")
    nll: float = Field(0.0, ge=0, description="weight of the chosen answer's own nll (RPO), which keeps it likely; of "
                                              "orpo and cpo 1")
    nll_on: Literal["answer", "all"] = Field("answer", description="the nll of the answer, or of its prompt too")
    desirable_weight: float = Field(1.0, gt=0, description="kto: weight of desirable answers")
    undesirable_weight: float = Field(1.0, gt=0, description="kto: weight of undesirable answers")
    kl_group: int = Field(8, ge=2, description="kto: answers whose mismatched ones make one estimate of the KL")

    @model_validator(mode="after")
    def papers(self) -> "LossConfig":
        """What is not given is what the loss's paper has.

        Filled in afterwards: a validator before would hand on Python's values, among which strict mode wants tuples.
        """
        own = {"nll": NLL.get(self.loss, 0.0)} | takes(self.loss)
        self.__dict__.update({name: value for name, value in own.items() if name not in self.model_fields_set})
        return self

    @model_validator(mode="after")
    def no_idle_options(self) -> "LossConfig":
        """An option that the loss does not look at is a misunderstanding."""
        own = takes(self.loss)
        idle = [name for name in ("smoothing", "margin", "desirable_weight", "undesirable_weight") if name not in own]
        idle += ["margin_scale", "length_penalty"] if "margin" not in own else []
        idle += ["tail", "nll", "margin_scale"] if self.loss in UNPAIRED else ["kl_group"]
        idle += ["divergence"] if self.loss in REFERENCE_FREE | UNPAIRED.keys() else []
        wrong = [name for name in dict.fromkeys(idle) if getattr(self, name) != type(self).model_fields[name].default]
        if wrong:
            having = [name for name in PAIRWISE | UNPAIRED if wrong[0] in takes(name)]
            raise ValueError(f"{wrong[0]} is no option of {self.loss}" +
                             (f", but of {', '.join(having)}" if having else ""))
        if self.nll_on == "all" and not self.nll:
            raise ValueError("nll_on=all says of which tokens the nll is, and nll is 0: give nll too")
        return self


def cached(model: Transformer, batch: ReferencedBatch) -> Tensor:
    """The reference's log-probabilities that were made before training; where a loss needs none, nobody looks."""
    return batch.reference


@torch.no_grad()
def adapter_off(model: Transformer, batch: ReferencedBatch) -> Tensor:
    """The same by the model itself without what it learns: one more forward pass a step, and nothing to wait for."""
    with using(model, None):
        return answer_logps(model, batch)[:len(batch.reference)]


# --- pairs --------------------------------------------------------------------------------------------------------

def preference(config: LossConfig, reference: Reference = cached) -> Objective:
    """The objective of pairs: a loss in `PAIRWISE` plus `nll` times the chosen answers' nll a token, with metrics."""
    def objective(model: Transformer, batch: PreferenceBatch) -> tuple[Tensor, Metrics]:
        told, count = reference(model, batch), len(batch.reference)
        logp = answer_logps(model, batch)
        logp, prompts, lengths = logp[:count], logp[count:], batch.lengths[:count]
        loss = pair_losses(config, logp, told, lengths, batch.margin, batch.share).sum()
        if len(prompts):
            said = -((logp[0::2] + prompts) / (lengths[0::2] + batch.lengths[count:])).sum()
        else:
            said = -(logp / lengths)[0::2].sum()
        total = loss + config.nll * said
        metrics = {"loss": float(total.detach()), "nll_loss": float(said.detach())}
        return total, metrics | pair_metrics(config, logp.detach(), told, lengths)

    return objective


def looked_at(config: LossConfig, logp: Tensor, reference: Tensor, lengths: Tensor) -> Tensor:
    """What a loss is a function of, h of `losses/preference.py`, from sums over tokens (A,)."""
    h = logp if config.loss in REFERENCE_FREE else DIVERGENCES[config.divergence](logp - reference)
    return h / lengths if config.loss in PER_TOKEN else h


def rewarded(config: LossConfig, logp: Tensor, reference: Tensor, lengths: Tensor) -> Tensor:
    """What beta times is an answer's reward (A,): its log-ratio, and where there is no reference what the loss sees."""
    return looked_at(config, logp, reference, lengths) if config.loss in REFERENCE_FREE else logp - reference


def pair_losses(config: LossConfig, logp: Tensor, reference: Tensor, lengths: Tensor, margin: Tensor,
                share: Tensor) -> Tensor:
    """The loss of each pair (P,), from numbers of their answers (2P,), the chosen one first."""
    h, own = looked_at(config, logp, reference, lengths), takes(config.loss)
    options = {name: getattr(config, name) for name in own if name != "margin"}
    if "margin" in own:
        longer = (lengths[0::2] - lengths[1::2]) * config.length_penalty
        options["margin"] = config.margin + config.margin_scale * margin - longer
    loss = PAIRWISE[config.loss](h[0::2], h[1::2], **options)
    if bool((share == 1).all()):
        return loss
    turned = options | ({"margin": -options["margin"]} if "margin" in own else {})
    return share * loss + (1 - share) * PAIRWISE[config.loss](h[1::2], h[0::2], **turned)


def pair_metrics(config: LossConfig, logp: Tensor, reference: Tensor, lengths: Tensor) -> Metrics:
    """Sums over pairs of TRL's metrics: implied rewards, their margin, and the absolute log-probabilities."""
    beta, h = config.beta, rewarded(config, logp, reference, lengths)
    margin = beta * (h[0::2] - h[1::2])
    found = {"rewards/chosen": float(beta * h[0::2].sum()), "rewards/rejected": float(beta * h[1::2].sum()),
             "rewards/margins": float(margin.sum()), "rewards/accuracies": float((margin > 0).sum()),
             "logps/chosen": float(logp[0::2].sum()), "logps/rejected": float(logp[1::2].sum())}
    if config.loss == "orpo":
        odds = log_odds(logp / lengths)
        gap = odds[0::2] - odds[1::2]
        found |= {"log_odds_chosen": float(gap.sum()),
                  "log_odds_ratio": float(torch.nn.functional.logsigmoid(gap).sum())}
    return found


# --- rated answers ------------------------------------------------------------------------------------------------

def rating(config: LossConfig, reference: Reference = cached) -> Objective:
    """The objective of rated answers, a loss in `UNPAIRED`, with TRL's metrics."""
    def objective(model: Transformer, batch: RatingBatch) -> tuple[Tensor, Metrics]:
        told = reference(model, batch)
        with torch.no_grad():
            drift = answer_logps(model, batch.mismatched) - reference(model, batch.mismatched)
        logp = answer_logps(model, batch)
        loss, kl = rating_losses(config, logp - told, drift, batch.desirable, batch.group)
        total = loss.sum()
        return total, {"loss": float(total.detach()), "kl": float(kl.sum())} | \
            rating_metrics(config, logp.detach(), told, batch.desirable, batch.scale)

    return objective


def rating_losses(config: LossConfig, h: Tensor, drift: Tensor, desirable: Tensor,
                  group: Tensor) -> tuple[Tensor, Tensor]:
    """The loss of each answer (A,) and the KL it is held against (A,); `drift` is h of the mismatched answers (A,)."""
    kl = torch.stack([baseline(drift[group == each]) for each in range(int(group.max()) + 1)])[group]
    options = {name: getattr(config, name) for name in takes(config.loss)}
    return UNPAIRED[config.loss](h, desirable, kl, **options), kl


def rating_metrics(config: LossConfig, logp: Tensor, reference: Tensor, desirable: Tensor,
                   scale: dict[bool, float]) -> Metrics:
    """Implied rewards and log-probabilities of desirable (`chosen`) and undesirable answers (`rejected`), as sums.

    A kind that a step has none of is not told, and without both there is no margin.
    """
    found, reward = {}, config.beta * (logp - reference)
    for name, wanted in (("chosen", True), ("rejected", False)):
        if wanted in scale:
            rows = desirable == wanted
            found[f"rewards/{name}"] = float(reward[rows].sum()) * scale[wanted]
            found[f"logps/{name}"] = float(logp[rows].sum()) * scale[wanted]
    if len(scale) == 2:
        found["rewards/margins"] = found["rewards/chosen"] - found["rewards/rejected"]
    return found


# --- held-out items -----------------------------------------------------------------------------------------------

def measured(config: LossConfig, items: Items, logp: Tensor, reference: Tensor) -> Metrics:
    """What a validation tells of items, from the log-probabilities (P, 2) of their answers."""
    return (measured_ratings if config.loss in UNPAIRED else measured_pairs)(config, items, logp, reference)


def measured_pairs(config: LossConfig, pairs: Sequence[Pair], logp: Tensor, reference: Tensor) -> Metrics:
    """Loss, rewards, and how often the chosen answer has the higher one, or is the likelier by its mean token.

    The nll in the loss is the answer's.
    """
    sizes = torch.tensor([[len(answer) for answer in pair.answers] for pair in pairs])
    margin, share = (torch.tensor([getattr(pair, name) for pair in pairs]) for name in ("margin", "share"))
    numbers, a_token = (logp.flatten(), reference.flatten(), sizes.flatten()), logp / sizes
    reward, nll = rewarded(config, *numbers), -float(a_token[:, 0].mean())
    return {"preference_accuracy": float((a_token[:, 0] > a_token[:, 1]).float().mean()), "nll_loss": nll,
            "loss": float(pair_losses(config, *numbers, margin, share).mean()) + config.nll * nll,
            **{name: value / len(pairs) for name, value in pair_metrics(config, *numbers).items()},
            **accuracy_by_length(reward[0::2] - reward[1::2], sizes)}


def measured_ratings(config: LossConfig, items: Sequence[Rated], logp: Tensor, reference: Tensor) -> Metrics:
    """Loss and KL with all items as one group, rewards, and how often a desirable answer's beats an undesirable one's.

    An accuracy is over every desirable answer beside every undesirable one, so of any two prompts.
    """
    desirable = torch.tensor([item.desirable for item in items])
    h, drift = (logp - reference).unbind(1)
    loss, kl = rating_losses(config, h, drift, desirable, torch.zeros_like(desirable).long())
    scale = {kind: 1 / count for kind in (True, False) if (count := int((desirable == kind).sum()))}
    right = (h[desirable][:, None] > h[~desirable]).double()
    return {"loss": float(loss.mean()), "kl": float(kl[0])} | \
        ({"rewards/accuracies": float(right.mean())} if right.numel() else {}) | \
        rating_metrics(config, logp[:, 0], reference[:, 0], desirable, scale)
