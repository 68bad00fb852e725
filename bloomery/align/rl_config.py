"""The options of reinforcement learning, what excludes what, and what a run will cost."""

from typing import Annotated, Literal

from pydantic import Field

from bloomery.align.candidates import SamplingConfig
from bloomery.align.control import KLConfig
from bloomery.align.critic import CriticConfig
from bloomery.align.hacking import AlarmsConfig
from bloomery.align.look import LookConfig
from bloomery.align.policy_objective import SurrogateConfig
from bloomery.align.ptx import PtxConfig
from bloomery.align.rewards import RewardsConfig
from bloomery.align.served import RolloutConfig
from bloomery.align.spoken import cuts
from bloomery.core.config import Free
from bloomery.core.errors import ConfigError
from bloomery.losses.advantage import ADVANTAGE, DENOMINATORS, SCALES
from bloomery.model.adapt import AdaptConfig
from bloomery.train.optim import OptimizerConfig
from bloomery.train.tuning import TuningConfig, foretold

ROOM = 8                        # tokens of an answer that is worth drawing


class LearnerConfig(SurrogateConfig, TuningConfig):
    """How to act, what answers earn, how credit is assigned, how it is learned, and what holds the policy."""

    steps: int = Field(gt=0, description="rollouts, each of which is learned from")
    reward: RewardsConfig | None = Field(None, description="what answers earn: models, verifier, function, judge, or "
                                                           "parts")
    gold: RewardsConfig | None = Field(None, description="another reward, looked at in validations, never learned from")
    patience: int = Field(3, gt=0, description="validations without a better gold reward after which training ends")
    prompts: int = Field(8, gt=0, description="prompts a step")
    samples: int = Field(8, gt=0, description="answers drawn to each")
    sampling: SamplingConfig = SamplingConfig()
    cuts_in_training: bool = Field(False, description="read the policy through the sampler's top_k and top_p too")
    environment: str | None = Field(None, description="a world that answers back: calculator, or a Python file")
    redraws: int = Field(0, ge=0, description="how often prompts whose answers all earn the same are replaced (DAPO)")
    mask_overlong: bool = Field(False, description="do not learn from answers that were cut off (DAPO)")
    advantage: Literal[*ADVANTAGE, "gae"] = Field("group", description="against what an answer's reward is held; gae "
                                                                       "has a critic")
    scale: Literal[*SCALES] = Field("group", description="group: in units of whose deviation; none is Dr. GRPO")
    normalise: Literal[*DENOMINATORS] = Field("grpo", description="what the summed loss is divided by")
    epochs: int = Field(1, gt=0, description="times each rollout is learned from")
    minibatches: int = Field(1, gt=0, description="updates in each of these times")
    gamma: float = Field(1.0, ge=0, le=1, description="gae: what a reward is worth a token later")
    lam: float = Field(0.95, ge=0, le=1, description="gae: how far rewards are trusted over the critic")
    whiten: bool = Field(True, description="gae: advantages of a step get mean 0 and deviation 1")
    whiten_rewards: bool = Field(False, description="gae: rewards of tokens get deviation 1")
    stop_kl: float | None = Field(None, gt=0, description="leave a rollout when approxkl is beyond 1.5 times this")
    kl: KLConfig = KLConfig()
    critic: CriticConfig = CriticConfig()
    ptx: PtxConfig = PtxConfig()
    alarms: AlarmsConfig = AlarmsConfig()
    look: LookConfig = LookConfig()
    adapt: AdaptConfig = AdaptConfig()
    optimizer: OptimizerConfig = OptimizerConfig(lr=1e-5)
    slots: Annotated[int, Free()] = Field(64, gt=0, description="answers drawn side by side")
    rollout: RolloutConfig = RolloutConfig()

    @property
    def updates(self) -> int:
        """Updates a step at most."""
        return self.epochs * self.minibatches

    @property
    def room(self) -> int:
        """Tokens at least behind every prompt. Reward models read an answer to its end, and again as text: ids that are
        no text become more, and half an answer has no score."""
        judged = any(part.models for each in (self.reward, self.gold) if each for part in each.named.values())
        return self.sampling.max_tokens * 5 // 4 + ROOM if judged else ROOM


def forecast(config: LearnerConfig, planned: dict[str, dict] | None = None) -> dict:
    """Drawing, a forward pass a token, and learning, three a token and time."""
    return foretold(config, planned, samples=config.prompts * config.samples, tokens_each=config.sampling.max_tokens,
                    passes=config.epochs + (1 + config.kl.needs_reference) / 3)


def raise_contradictions(config: LearnerConfig) -> None:
    """One `ConfigError` for options that exclude each other, before anything is read."""
    sampler = config.sampling.how
    wrong = [
        (config.advantage in ("group", "rloo") and config.samples < 2, "samples", "one answer has no group",
         f"{config.advantage} compares the answers to a prompt", "samples=2 or more, or the verb ppo or reinforce"),
        (cuts(sampler) and not config.cuts_in_training, "sampling", "the sampler leaves tokens out that training sees",
         "ratios would compare two different distributions", "top_k=0 top_p=1, or cuts_in_training=true"),
        (config.reward is None and config.environment is None, "reward", "nothing says what an answer earns", "",
         "reward.verifier=number, reward.models=FOLDER, reward.function=FILE.py, or an environment that pays"),
        (config.policy == "reinforce" and config.updates > 1, "epochs", "REINFORCE learns once from what it draws",
         "it has no ratio that would account for a policy that has moved", "epochs=1 minibatches=1, or policy=token"),
        (config.minibatches > config.prompts, "minibatches", "there are more minibatches than prompts",
         f"{config.prompts} prompts a step cannot be dealt into {config.minibatches}", "fewer, or more prompts"),
        (config.adapt.dropout > 0, "adapt.dropout", "dropout makes every ratio noise",
         "what is drawn and what is learned would not be one policy", "leave it out"),
        (bool(config.ema or config.early_stopping or config.sample_every or config.compile), "rl",
         "ema, early_stopping, sample_every and compile are no options of reinforcement learning", "",
         "gold and kl.budget end a run; answers.json has what is said"),
        (max(config.parallel.shard, config.parallel.tensor) > 1, "parallel", "a policy is not split over ranks", "",
         "leave out shard and tensor: ranks then hold copies"),
        (config.kl.budget is not None and not config.look.prompts, "kl.budget", "a budget that nobody measures",
         "look.prompts is 0", "look.prompts=64")]
    for is_so, where, what, why, hint in wrong:
        if is_so:
            raise ConfigError(what, where=where, why=why, hint=hint)
