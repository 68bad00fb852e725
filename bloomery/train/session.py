"""A stage's training from first step to exported model: resume, log, validate, checkpoint, stop when asked.

What pretraining, fine-tuning and preference optimisation share around `fit`, so that each stage says only where batches
come from and what is minimised.  Under `torchrun` every rank comes through here; rank 0 writes and speaks.
"""

import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field

from bloomery.core.artifacts import check_space, fingerprint, write_atomic
from bloomery.core.config import Fixed, Free, Settings, essential
from bloomery.core.errors import BloomeryError, ConfigError, Preempted
from bloomery.core.metrics import MetricLog, say
from bloomery.data.prefetch import Prefetched
from bloomery.data.stream import Stream
from bloomery.model.transformer import Transformer
from bloomery.train import checkpoint, parallel
from bloomery.train.compiled import compiled
from bloomery.train.ema import Ema
from bloomery.train.guard import Guard, GuardConfig
from bloomery.train.hooks import BEST_STEP, EarlyStopping, Hook, every, on_signal, stop_signal
from bloomery.train.live import LiveView, Meter, peak_rate
from bloomery.train.loop import fit
from bloomery.train.memory import Checkpointing, adapted, checkpointed, flops_per_token, free_gb, plan
from bloomery.train.objective import Metrics, Objective
from bloomery.train.optim import OptimizerConfig
from bloomery.train.parallel import ParallelConfig, Sharded
from bloomery.train.precision import Device, Precision, choose, placed
from bloomery.train.samples import Preview, sample_every
from bloomery.train.state import Penalty, Report, State, fresh
from bloomery.train.team import Team, join
from bloomery.train.trackers import Start, TrackerName, Trackers

Blame = Callable[[int], object]         # step -> what it read, in JSON: document numbers by domain

joined = cache(join)                    # a process joins its team once, whatever number of stages it takes part in


class TrainingConfig(Settings):
    """Options every training stage has."""

    steps: int = Field(gt=0, description="optimizer steps")
    optimizer: OptimizerConfig = OptimizerConfig()
    precision: Precision = Field("auto", description="bf16, fp32, or auto: what this machine is fast at")
    device: Device = "auto"
    guard: GuardConfig = GuardConfig()
    ema: Annotated[float | None, Fixed()] = Field(
        None, gt=0, lt=1, description="validate and export an average of the weights with this memory of a step")
    recompute: Checkpointing = Field("none", description="what blocks forget and compute again going backward")
    compile: bool = Field(False, description="compile blocks with torch.compile, where there is a compiler")
    parallel: Annotated[ParallelConfig, Free()] = ParallelConfig()
    validate_every: int = Field(100, gt=0, description="steps between validations")
    early_stopping: EarlyStopping | None = None
    save_every: Annotated[int, Free()] = Field(100, gt=0, description="steps between checkpoints")
    keep: Annotated[int, Free()] = Field(checkpoint.KEPT, ge=checkpoint.KEPT, description="checkpoints kept")
    background: Annotated[bool, Free()] = Field(
        True, description="write checkpoints beside training, from a copy in memory")
    sample_every: Annotated[int | None, Free()] = Field(None, gt=0, description="steps between sampled texts")
    sample_prompts: Annotated[tuple[str, ...], Free()] = Field(("",), description="what sampled texts begin with")
    track: Annotated[tuple[TrackerName, ...], Free()] = Field((), description="tensorboard, wandb, trackio")
    accept_change: Annotated[bool, Free()] = Field(
        False, description="go on with an unfinished folder though options or data have changed")
    seed: int = Field(0, description="names the data order and the first weights")


def train(model: Transformer, config: TrainingConfig, out: Path, *, name: str, stream: Stream, objective: Objective,
          validate: Callable[[Transformer], Metrics], preview: Preview | None = None, blame: Blame | None = None,
          extra: tuple[Hook, ...] = (), penalty: Penalty | None = None, epoch: float | None = None) -> State:
    """Train `model`, going on from the newest checkpoint below `out`; the last metrics are in `state.best`.

    The trained model is `state.model`, whole on every rank; `epoch` is the share of the data that a step takes.  Raises
    `Preempted` after saving when asked to stop, `BloomeryError` when training has diverged.
    """
    team = replace(joined(), device=placed(config.device))
    home = Path(team.broadcast(str(out))) / "checkpoints"       # other ranks write what is theirs elsewhere
    state, identity = prepared(model, config, home, team, name=name, stream=stream, objective=objective)
    state.penalty, early = penalty, config.early_stopping
    average = Ema(state.ranks.held, config.ema) if config.ema else None
    saver = checkpoint.Saver(home, identity, kept=config.keep, background=config.background)
    if state.step:
        checkpoint.restore_average(average, home, state.step)
    about = {"compute": str(model.compute).removeprefix("torch."), "model": model.config.model_dump(mode="json")}

    def save(state: State) -> None:
        saver.save(state, about=about, average=average)

    def measure(state: State) -> None:
        with average.applied() if average else ExitStack():
            values = validate(state.model)
        state.best |= values
        log.log(state.step, **values)
        if early:
            state.best |= early.judged(state.best, state.step)
            if state.best[BEST_STEP] == state.step:
                save(state)

    start = Start(out, out.name, config.model_dump(mode="json"), state.step)
    with stop_signal.caught(), LiveView(name, steps=state.steps) as view, \
            Trackers(config.track if team.leads else (), start) as trackers, \
            MetricLog(out, name=name, resume_step=state.step, listeners=(view, trackers)) as log:
        if state.step == 0:
            measure(state)
        meter = Meter(log, flops_per_token=flops_per_token(model), epoch=epoch,
                      peak=peak_rate(model.compute, str(team.device)) * team.size)
        samples = [sample_every(config.sample_every, preview, out, resume_step=state.step)] \
            if config.sample_every and preview and team.leads and not isinstance(state.ranks, Sharded) else []
        hooks = (*([average] if average else []), meter, tell_refusals(log, blame),
                 every(config.validate_every, measure), *([early] if early else []), *samples, *extra,
                 every(config.save_every, save), on_signal)
        try:
            with Prefetched(stream, steps=state.steps, own=state.ranks.share, pin=team.device.type == "cuda") as ahead:
                ended = early and early.enough(state.best)
                reason = ended or fit(state, ahead, objective, hooks)
        except FloatingPointError as error:
            saver.wait()
            raise diverged(state, out, name, error, blame) from error
        ended = early and early.enough(state.best)
        if reason:                                              # after the last step too: whoever asked is waiting
            save(state)
        saver.wait()
        if reason and not ended:
            raise Preempted("stopped and saved", where=f"{name}, step {state.step} of {state.steps}", why=reason,
                            hint="run the same command again to go on")
    if ended:
        say(f"  {name}: ends after step {state.step} of {state.steps}: {ended}")
    return finished(state, average, home, checkpoint.load_best(state, average, home) if early else state.step)


def prepared(model: Transformer, config: TrainingConfig, home: Path, team: Team, *, name: str, stream: Stream,
             objective: Objective) -> tuple[State, str]:
    """The state to go on from, fresh or from the newest checkpoint, and what identifies this run's checkpoints."""
    identity = fingerprint(essential(config))
    found = checkpoint.latest(home) if team.leads else None
    path, saved = team.broadcast([str(found[0]), found[1]] if found else [None, None])
    compute, why = team.broadcast([saved["compute"], ""] if saved else
                                  [str(chosen).removeprefix("torch.")
                                   for chosen in choose(config.precision, device=config.device)])
    model.compute = getattr(torch, compute)
    checkpointed(model, config.recompute)
    ranks = parallel.apply(model, team, config.parallel)
    if config.ema and isinstance(ranks, Sharded):
        raise ConfigError("an average of split weights is not kept", where="ema", hint="leave out ema, or the mesh")
    state = fresh(model, config.optimizer, steps=config.steps, ranks=ranks)
    state.guard = Guard(config.guard)
    state.learning_rate()                                       # a schedule that cannot be is refused now
    if saved:
        checkpoint.load(state, Path(path), saved, identity=identity, accept=config.accept_change)
    first = list(stream(state.step)) if state.step < state.steps else []
    told = plan(model.config, tokens=max((len(batch.ids) for batch in first), default=1), compute=model.compute,
                optimizer=config.optimizer.name, checkpointing=config.recompute, device=team.device.type,
                adapted=adapted(model))
    say(f"  {name}: goes on after step {state.step} of {state.steps}" if saved else f"  {name}: {why}")
    say(f"  {name}: memory {told}" + (f"; {team.size} ranks" if team.size > 1 else ""))
    if told.total / 1e9 > (free := free_gb(team.device)):
        say(f"  warning: that is more than the {free:.1f} GB that are free: smaller micro-batches need less, and "
            'recompute = "full" trades time for it')
    if config.compile and first:
        compiled(model, lambda: objective(model, first[0].beside(model))[0])
    if team.leads and not saved:                                # two checkpoints must fit before work is begun
        home.mkdir(parents=True, exist_ok=True)
        check_space(home, round(2 * (told.gradients + told.moments)))           # a gradient is as large as its weight
    return state, identity


def tell_refusals(log: MetricLog, blame: Blame | None) -> Hook:
    """Say and log every step that was refused, with the documents it had read."""
    def hook(state: State, report: Report) -> None:
        if report.refused:
            read = {"documents": json.dumps(blame(state.step - 1))} if blame else {}
            log.log(state.step, event="refused", why=report.refused, **read, quiet=True)
            say(f"  warning: step {state.step} was not taken: {report.refused}")

    return hook


def diverged(state: State, out: Path, name: str, error: FloatingPointError, blame: Blame | None) -> BloomeryError:
    """The error of a run that cannot go on; what is known about the step is kept in `diverged.json`."""
    norms = {weight: float(p.grad.norm(dtype=torch.float64)) for weight, p in state.ranks.held.named_parameters()
             if p.grad is not None}
    write_atomic(out / "diverged.json", json.dumps(
        {"step": state.step, "why": str(error), "learning_rate": state.learning_rate(),
         "documents": blame(state.step) if blame else None, "gradient_norms": norms, **state.guard.remembered()},
        indent=1))
    return BloomeryError("training has diverged", where=f"{name}, step {state.step}", why=str(error),
                         hint=f"lower optimizer.lr, or guard.non_finite=skip; the last checkpoint is kept, and "
                              f"{out / 'diverged.json'} says what the step read")


def finished(state: State, average: Ema | None, home: Path, step: int) -> State:
    """The state with a whole model of the weights that are to be exported, those of checkpoint `step`."""
    if average:
        average.exchange()
    if isinstance(state.ranks, Sharded) and not all(p.requires_grad for p in state.model.parameters()):
        state.model = state.ranks.whole()                       # a checkpoint holds only what was trained
    elif isinstance(state.ranks, Sharded):
        state.model = checkpoint.whole_model(state.model.config, home / f"step-{step:08d}", state.model.compute)
    return state
