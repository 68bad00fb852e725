"""Actor and critic as one model, so that one step, one checkpoint and one resume serve both.

    V_t = w . h_(t-1),      h_(t-1) the hidden state after the prompt and y_<t: before token t is said

In a forest that is the very position that predicts token t, so a value stands beside every log-probability.  The
critic is a scalar model of its own, begun from a reward model (Ouyang et al. 2022) or from the policy with a head of
zeros, or `shared`: a head on the policy's own hidden states, which costs D numbers.
"""

from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from bloomery.core.config import Input, Settings
from bloomery.core.errors import ConfigError
from bloomery.data.batch import Batch
from bloomery.model.config import ModelConfig
from bloomery.model.forest import Forest
from bloomery.model.linear import Linear
from bloomery.model.scalar import ScalarModel, is_scalar, load_scalar
from bloomery.model.store import load_model
from bloomery.model.transformer import Transformer


class CriticConfig(Settings):
    """Who foretells rewards, of algorithms that have a critic."""

    kind: Literal["own", "shared"] = Field("own", description="a network of its own, or a head on the policy's")
    model: Input | None = Field(None, description="what an own one starts from: a reward model, or a language model; "
                                                  "default: the policy")
    coefficient: float = Field(0.1, gt=0, description="weight of its loss beside the policy's")
    clip: float | None = Field(0.2, gt=0, description="how far a value may move in one rollout; leave out for any")


class ActorCritic(nn.Module):
    """A policy and what foretells its rewards. Training sees the policy's shape; its parameters are those of both."""

    def __init__(self, policy: Transformer, critic: ScalarModel | None = None):
        super().__init__()
        self.policy, self.critic = policy, critic
        if critic is None:
            self.value = Linear(policy.config.width, 1).to(policy.embedding.weight.dtype)
            nn.init.zeros_(self.value.weight)

    @property
    def config(self) -> ModelConfig:
        return self.policy.config

    @property
    def compute(self) -> torch.dtype:
        return self.policy.compute

    @compute.setter
    def compute(self, dtype: torch.dtype) -> None:
        self.policy.compute = dtype
        if self.critic is not None:
            self.critic.compute = dtype

    @property
    def blocks(self) -> nn.ModuleList:
        own = [*self.policy.blocks, *(self.critic.blocks if self.critic is not None else ())]
        return nn.ModuleList(own)

    @property
    def embedding(self) -> nn.Module:
        return self.policy.embedding

    @property
    def head(self) -> nn.Module:
        return self.policy.head

    def values(self, batch: Batch, rows: Tensor, hidden: Tensor) -> Tensor:
        """V at positions `rows`, (M,) in at least fp32; `hidden` (M, D) are the policy's states there."""
        if self.critic is None:
            found = self.value(hidden)
        else:
            memory = Forest(batch.segments)
            found = self.critic.read(self.critic.trunk(batch.ids, batch.positions, memory)[rows])
        return found[:, 0].to(torch.promote_types(found.dtype, torch.float32))


def policy_of(model: Transformer | ActorCritic) -> Transformer:
    return model.policy if isinstance(model, ActorCritic) else model


def with_critic(policy: Transformer, config: CriticConfig, *, start: str) -> ActorCritic:
    """The policy and its critic, which starts from `config.model`, else from the folder `start`."""
    if config.kind == "shared":
        return ActorCritic(policy)
    folder = Path(config.model or start)
    critic = load_scalar(folder) if config.model and is_scalar(folder) else headed(load_model(folder))
    if critic.config.vocabulary != policy.config.vocabulary or critic.config.context < policy.config.context:
        raise ConfigError("the critic does not read what the policy says", where="critic.model",
                          why=f"its vocabulary is {critic.config.vocabulary} and its context {critic.config.context}, "
                              f"the policy's {policy.config.vocabulary} and {policy.config.context}",
                          hint="take one with the policy's own tokenizer, or leave critic.model out")
    return ActorCritic(policy, critic)


def headed(trunk: Transformer) -> ScalarModel:
    """A language model with a head of zeros: before it has learned anything it expects nothing."""
    critic = ScalarModel(trunk, seed=None)
    nn.init.zeros_(critic.score.weight)
    return critic
