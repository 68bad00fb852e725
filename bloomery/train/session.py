"""A stage's training from first step to exported model: resume, log, validate, checkpoint, stop when asked.

What pretraining, fine-tuning and preference optimisation share around `fit`, so that each stage says only where batches
come from and what is minimised.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from pydantic import Field

from bloomery.core.artifacts import fingerprint
from bloomery.core.config import Settings
from bloomery.core.errors import BloomeryError, Preempted
from bloomery.core.metrics import MetricLog, say
from bloomery.data.stream import Stream
from bloomery.model.transformer import Transformer
from bloomery.train import checkpoint
from bloomery.train.hooks import Hook, every, log_to, on_signal, stop_signal
from bloomery.train.loop import fit
from bloomery.train.objective import Metrics, Objective
from bloomery.train.optim import OptimizerConfig
from bloomery.train.precision import Precision, choose
from bloomery.train.state import State, fresh


class TrainingConfig(Settings):
    """Options every training stage has."""

    steps: int = Field(gt=0, description="optimizer steps")
    optimizer: OptimizerConfig = OptimizerConfig()
    precision: Precision = Field("auto", description="bf16, fp32, or auto: what this machine is fast at")
    validate_every: int = Field(100, gt=0, description="steps between validations")
    save_every: int = Field(100, gt=0, description="steps between checkpoints")
    seed: int = Field(0, description="names the data order and the first weights")


def train(model: Transformer, config: TrainingConfig, out: Path, *, name: str, stream: Stream, objective: Objective,
          validate: Callable[[Transformer], Metrics], extra: tuple[Hook, ...] = ()) -> State:
    """Train `model` in place, going on from the newest checkpoint below `out`; the last metrics are in `state.best`.

    Raises `Preempted` after saving when asked to stop, `BloomeryError` when the loss is no longer finite.
    """
    identity = fingerprint(config.model_dump(mode="json"))
    found = checkpoint.latest(out / "checkpoints")
    model.compute, why = (getattr(torch, found[1]["compute"]), "") if found else choose(config.precision)
    state = fresh(model, config.optimizer, steps=config.steps)
    if found:
        checkpoint.load(state, *found, identity=identity)
    say(f"  {name}: goes on after step {state.step} of {state.steps}" if found else f"  {name}: {why}")

    def save(state: State) -> None:
        compute = str(model.compute).removeprefix("torch.")
        checkpoint.save(state, out / "checkpoints", identity=identity, about={"compute": compute})

    with stop_signal.caught(), MetricLog(out, name=name, resume_step=state.step) as log:
        def measure(state: State) -> None:
            values = validate(model)
            state.best |= values
            log.log(state.step, **values)

        if state.step == 0:
            measure(state)
        hooks = (log_to(log), every(config.validate_every, measure), *extra, every(config.save_every, save), on_signal)
        try:
            reason = fit(state, stream, objective, hooks)
        except FloatingPointError as error:
            raise BloomeryError("training has diverged", where=f"{name}, step {state.step}", why=str(error),
                                hint="lower optimizer.lr; the last checkpoint is kept") from error
        if reason:                                              # after the last step too: whoever asked is waiting
            save(state)
            raise Preempted("stopped and saved", where=f"{name}, step {state.step} of {state.steps}", why=reason,
                            hint="run the same command again to go on")
    return state
