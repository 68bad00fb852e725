"""From a batch of drawn tokens to one loss: the policy's, a critic's, a KL and an entropy, and what is told of them.

    loss_t = tis_t policy_t(rho_t, A_t) + beta kl_t + c_v value_t - c_e entropy_t,      summed with the batch's weights

A policy that is `fresh`, from whose every draw it learns once, is its own old policy: rho is 1 and its gradient that
of log pi.  Batches of plain text beside them add the language-model loss of PPO-ptx (Ouyang et al. 2022, eq. 2).
"""

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from bloomery.align.critic import ActorCritic, policy_of
from bloomery.align.experience import PolicyBatch
from bloomery.align.kl import ESTIMATORS, exact_kl
from bloomery.align.spoken import Spoken, spoken
from bloomery.core.config import Settings
from bloomery.data.batch import Batch
from bloomery.generate.sampling import AS_IS, Sampling
from bloomery.losses.policy import POLICY, clip_shares, entropy, truncated, value_loss
from bloomery.model.lora import using
from bloomery.model.transformer import Transformer
from bloomery.train.objective import Metrics, Objective, causal_lm


class SurrogateConfig(Settings):
    """What is minimised of every drawn token."""

    policy: Literal[*POLICY] = Field("token", description="the ratio a token is weighed by: its own, the sequence's "
                                                          "mean (GSPO), the whole answer's (RLOO); reinforce has none")
    clip_low: float = Field(0.2, ge=0, le=1, description="how far a ratio counts below 1")
    clip_high: float | None = Field(None, ge=0, description="and above 1; default: as far (DAPO: 0.28)")
    entropy: float = Field(0.0, ge=0, description="weight of the entropy that is kept up")
    importance_cap: float | None = Field(None, gt=0, description="weigh tokens by trainer's / sampler's probability, "
                                                                 "at most this (truncated importance sampling)")

    @property
    def clip(self) -> dict[str, float]:
        return {"low": self.clip_low, "high": self.clip_low if self.clip_high is None else self.clip_high}


@dataclass(frozen=True)
class Terms:
    """How an objective is put together, beside what each batch says."""

    surrogate: SurrogateConfig
    estimator: str = "k3"               # of a KL in the loss: of kl.ESTIMATORS, or "exact"
    corrected: bool = True              # its tokens weighed by their ratio, so that the gradient is the KL's
    in_loss: bool = False
    how: Sampling = AS_IS
    fresh: bool = False
    value_coefficient: float = 0.1
    value_clip: float | None = 0.2


def objective(terms: Terms, reference: Transformer | None = None) -> Objective:
    """The objective; `reference` is asked by an exact KL only: None is the policy with its adapter off."""
    surrogate, clip = terms.surrogate, terms.surrogate.clip
    exact = terms.in_loss and terms.estimator == "exact"

    def minimised(model: Transformer | ActorCritic, batch: Batch) -> tuple[Tensor, Metrics]:
        if not isinstance(batch, PolicyBatch):
            return plain_text(policy_of(model), batch)
        said = spoken(policy_of(model), batch, terms.how, whole=exact or surrogate.entropy > 0)
        rows, logp, advantage = said.rows, said.logp, batch.advantage[said.rows]
        old = logp.detach() if terms.fresh else batch.old[rows]
        policy = POLICY[surrogate.policy](logp, old, advantage, batch.answer[rows], **clip)
        loss, apart = policy.loss, (logp.detach() - batch.behaviour[rows]).abs()
        if surrogate.importance_cap is not None:
            loss = loss * truncated(old, batch.behaviour[rows], surrogate.importance_cap)
        told = {"loss/policy_avg": loss, "policy/approxkl_avg": (logp - old).square() / 2, "val/ratio": policy.ratio,
                "sampling/logp_difference": apart}
        told |= {f"clip/{name}": share.float() for name, share in clip_shares(policy.ratio, advantage, **clip).items()}
        if terms.in_loss and batch.beta:
            kl = whole_kl(model, reference, batch, said, terms.how) if exact else \
                ESTIMATORS[terms.estimator](logp, batch.reference[rows])
            kl = kl * policy.ratio if terms.corrected and not exact else kl
            loss, told["kl"] = loss + batch.beta * kl, kl
        if isinstance(model, ActorCritic):
            values = model.values(batch, rows, said.hidden)
            error, held = value_loss(values, batch.values[rows], batch.returns[rows], clip=terms.value_clip)
            loss = loss + terms.value_coefficient * error
            told |= {"loss/value_avg": error, "val/clipfrac_avg": held.float()}
        if said.spread is not None:
            told["policy/entropy_avg"] = entropy(said.spread)
            loss = loss - surrogate.entropy * told["policy/entropy_avg"]
        total = (loss * batch.weights[rows]).sum()
        means = torch.stack([x.detach().sum() for x in told.values()]).double() * batch.share
        return total, {"loss": float(total.detach()), **dict(zip(told, means.tolist(), strict=True))}

    return minimised


def whole_kl(model: Transformer | ActorCritic, reference: Transformer | None, batch: PolicyBatch, said: Spoken,
             how: Sampling) -> Tensor:
    """The KL of each next-token distribution, (M,)."""
    policy = policy_of(model)
    with torch.no_grad():
        if reference is None:
            with using(policy, None):
                told = spoken(policy, batch, how, whole=True).spread
        else:
            told = spoken(reference, batch, how, whole=True).spread
    return exact_kl(said.spread, told)


def plain_text(policy: Transformer, batch: Batch) -> tuple[Tensor, Metrics]:
    """The language-model loss of a batch whose weights say what it counts."""
    loss, found = causal_lm(policy, batch)
    return loss, {"loss": found["loss"], "loss/ptx": found["loss"]}
