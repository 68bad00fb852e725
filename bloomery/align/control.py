"""What holds a policy back while it learns: the KL's coefficient, a budget, alarms, and a gold reward that is watched.

All of it moves with what is measured, and all of it is in `state`, so in every checkpoint: a run that goes on after a
stop is held as it would have been.
"""

from typing import Literal

from pydantic import Field, model_validator

from bloomery.align.hacking import Alarms, AlarmsConfig, GoldWatch
from bloomery.align.kl import CONTROLLERS, ESTIMATORS, Budget, Controller
from bloomery.core.config import Settings


class KLConfig(Settings):
    """How the policy is tied to its reference, the model it starts from."""

    beta: float = Field(0.0, ge=0, description="weight of the KL; 0: none, and no reference is kept")
    place: Literal["reward", "loss"] = Field("loss", description="taken off the reward, or added to the loss")
    estimator: Literal[*ESTIMATORS, "exact"] = Field("k3", description="of each token; exact: over all of a vocabulary")
    corrected: bool = Field(True, description="in the loss: weigh each term by its ratio, which makes its gradient the "
                                              "KL's own")
    how: Literal[*CONTROLLERS] = Field("fixed", description="beta stays, follows a target (adaptive), or rises as the "
                                                            "multiplier of KL <= target (dual)")
    target: float = Field(6.0, gt=0, description="nats an answer that adaptive and dual aim at")
    horizon: float = Field(10_000.0, gt=0, description="answers in which they move")
    budget: float | None = Field(None, gt=0, description="nats an answer at most: beyond, the last weights within are "
                                                         "restored and training ends")
    samples: int = Field(256, gt=1, description="answers at least that a budget is measured on, at every validation")

    @property
    def needs_reference(self) -> bool:
        return self.beta > 0 or self.how != "fixed" or self.budget is not None

    @model_validator(mode="after")
    def fits(self) -> "KLConfig":
        if self.estimator == "exact" and self.place == "reward":
            raise ValueError("an exact KL is that of whole distributions, a reward is of what was drawn: "
                             "place=loss, or estimator=k1")
        if self.how == "adaptive" and not self.beta:
            raise ValueError("adaptive multiplies beta, and 0 stays 0: give a first beta")
        return self


class Control:
    """The state of all of it. `beta` is what the next step uses."""

    def __init__(self, kl: KLConfig, alarms: AlarmsConfig, *, patience: int, saved: dict | None = None):
        self.kl, self.beta, self.looked = kl, kl.beta, -1       # `looked`: the update after which was last measured
        self.controller = Controller(kl.how, kl.target, kl.horizon)
        self.budget = Budget(kl.budget) if kl.budget else None
        self.alarms, self.gold = Alarms(alarms), GoldWatch(patience=patience)
        if saved:
            self.beta, self.looked = saved["beta"], saved["looked"]
            self.alarms = Alarms.restored(saved["alarms"], alarms)
            self.gold = GoldWatch.restored(saved["gold"], patience=patience)

    def state(self) -> dict:
        """Plain values, as JSON has them."""
        return {"beta": self.beta, "looked": self.looked, "alarms": self.alarms.state(), "gold": self.gold.state()}

    def follow(self, kl: float, answers: int) -> None:
        """The coefficient after a step whose answers were `kl` nats from the reference on average."""
        self.beta = self.controller(self.beta, kl, samples=answers)

    def judged(self, step: int, found: dict[str, float]) -> tuple[str | None, bool]:
        """After a measurement: why to end, and whether these weights are now those to restore."""
        self.looked = step
        if self.budget and (reason := self.budget.exceeded(found["val_kl"])):
            return f"{reason} (measured {found['val_kl']:.3g} +- {found['val_kl_error']:.2g})", False
        if "val_gold" not in found:
            return None, self.budget is not None
        reason = self.gold.seen(step, proxy=found["val_reward"], gold=found["val_gold"], kl=found.get("val_kl", 0.0))
        return reason, self.gold.best is not None and self.gold.best.step == step
