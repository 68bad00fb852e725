"""One rank of the team that `test_parallel.py` starts: runs every check, rank 0 writes what it saw as JSON."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch.distributed.tensor import Shard, distribute_tensor

from bloomery.core.errors import BloomeryError
from bloomery.data.batch import Batch, Run, forest, rectangle, sequence
from bloomery.losses import linear_ce, parallel_ce
from bloomery.model.config import ModelConfig
from bloomery.model.store import model_weights
from bloomery.model.transformer import Transformer
from bloomery.train.loop import fit
from bloomery.train.objective import Objective, causal_lm
from bloomery.train.optim import OptimizerConfig, moments
from bloomery.train.parallel import ParallelConfig, Sharded, apply
from bloomery.train.retention import ANCHOR, FISHER, Ewc, kl_to
from bloomery.train.shard_files import consolidate, load_shards, save_shards
from bloomery.train.state import State, fresh
from bloomery.train.team import Team, join
from bloomery.train.tensor_file import write_tensors

# 7 rows of a norm or 13 of a matrix do not divide by two: sizes are odd wherever a split allows it
LLAMA = ModelConfig(vocabulary=38, context=32, depth=2, width=23, heads=4, kv_heads=2, head_width=6, hidden=26,
                    qk_norm=True)
GPT2 = ModelConfig(vocabulary=38, context=32, depth=2, width=23, heads=2, kv_heads=2, head_width=6, hidden=26,
                   norm="layer", positions="learned", activation="gelu", biases="all", tied=False)
ODD = LLAMA.model_copy(update={"vocabulary": 39, "head_softcap": 5.0})          # a head that stays whole on every rank
MODELS = {"llama": LLAMA, "gpt2": GPT2, "odd": ODD}


def batches(count: int) -> Callable[[int], list[Batch]]:
    """Micro-batches of every size, the same on all ranks."""
    def stream(step: int) -> list[Batch]:
        draw = torch.Generator().manual_seed(step)
        return [rectangle(torch.randint(0, 38, (1 + (3 * i + step) % 4, 6 + i), generator=draw)) for i in range(count)]

    return stream


def unequal(step: int) -> list[Batch]:
    """Three trained tokens for one rank, fifty for the other."""
    draw = torch.Generator().manual_seed(step)
    few, many = torch.randint(0, 38, (2, 21), generator=draw).tolist()
    return [forest([sequence(few, [False] * 18 + [True] * 3)]),
            forest([Run(many[:-1], many[1:], [2.5] * 20)])]


def state_of(team: Team | None, mesh: dict, *, model: str = "llama", compute: torch.dtype = torch.float32,
             seed: int = 0, **options) -> State:
    """A fresh run: by the team in a mesh, or by this process alone."""
    network = Transformer(MODELS[model], seed=seed, compute=compute)
    ranks = apply(network, team, ParallelConfig(**mesh)) if team else None
    return fresh(network, OptimizerConfig(**{"lr": 1e-3, "warmup": 0.0} | options), steps=4, ranks=ranks)


def trained(state: State, stream: Callable[[int], list[Batch]], *, until: int = 3,
            objective: Objective = causal_lm) -> list[tuple]:
    """Loss, norm and tokens of every step."""
    seen: list[tuple] = []

    def note(state: State, report) -> str | None:
        seen.append((report.metrics["loss"], report.grad_norm, report.tokens))
        return "enough" if state.step == until else None

    fit(state, stream, objective, [note])
    return seen


def off(split: State, alone: State) -> float:
    """The largest difference between this rank's pieces and the same places of whole weights, over all ranks."""
    whole, worst = dict(alone.model.named_parameters()), 0.0
    for name, p in split.ranks.held.named_parameters():
        expected = whole[name].detach()
        if isinstance(split.ranks, Sharded):
            piece = split.ranks.pieces[name]
            expected = expected[piece.rows] if piece.columns is None else expected[piece.rows[:, None], piece.columns]
        assert p.shape == expected.shape, name
        worst = max(worst, float((p.detach() - expected).abs().max()) if p.numel() else 0.0)
    return max(split.team.gather(worst))


def compared(team: Team, mesh: dict, stream: Callable[[int], list[Batch]], *, objective: Objective = causal_lm,
             penalty: Callable[[], Ewc | None] = lambda: None, **options) -> dict[str, float]:
    """How far three steps of the team are from three steps of one process."""
    many, one = state_of(team, mesh, **options), state_of(None, {}, **options)
    many.penalty, one.penalty = penalty(), penalty()
    steps = list(zip(*(trained(state, stream, objective=objective) for state in (many, one)), strict=True))
    return {"loss": max(abs(a[0] - b[0]) for a, b in steps), "norm": max(abs(a[1] - b[1]) for a, b in steps),
            "tokens": max(abs(a[2] - b[2]) for a, b in steps), "weights": off(many, one)}


def words(team: Team) -> dict:
    long = "x" * 10_000
    return {"gather": team.gather([team.rank, 0.1 + team.rank]),
            "any": team.any(team.rank == 1), "none": team.any(False),
            "first": team.first("late" if team.rank else None), "broadcast": team.broadcast(f"from {team.rank}"),
            "sum": team.sum({"a": 0.1, f"only {team.rank}": 1.0}), "long": team.gather(long) == [long, long],
            "share": list(team.share(5))}


def exact(team: Team, folder: Path) -> dict:
    """A team that only adds gradients has the bits of one process."""
    return {f"{name}, {count} micro-batches": compared(team, {}, batches(count), name=name)
            for name in ("adamw", "muon") for count in (1, 2, 3, 4, 7)}


def stopped(team: Team, folder: Path) -> dict:
    """One rank is asked to stop; all do."""
    state = state_of(team, {})
    reason = fit(state, batches(2), causal_lm, [
        lambda state, report: "SIGTERM received" if team.rank == 1 and state.step == 2 else None])
    return {"reasons": team.gather(reason), "steps": team.gather(state.step)}


def split(team: Team, folder: Path) -> dict:
    found = {}
    for mesh in ({"shard": 2}, {"tensor": 2}, {"replicate": 2, "shard": 1, "tensor": 1}):
        for model in ("llama", "gpt2"):
            for name in ("adamw", "muon"):
                found[f"{mesh} {model} {name}"] = compared(team, mesh, batches(3), model=model, name=name)
    found["odd vocabulary"] = compared(team, {"tensor": 2}, batches(2), model="odd")
    found["muon by parts"] = compared(team, {"tensor": 2}, batches(2), name="muon", split=True)
    for mesh in ({}, {"shard": 2}):
        found[f"{mesh} unequal counts"] = compared(team, mesh, unequal)
        found[f"{mesh} fewer micro-batches than ranks"] = compared(team, mesh, batches(1))
    return found


def remembering(team: Team, folder: Path) -> dict:
    """Divergence from a reference and a penalty of the weights, in micro-batches that two ranks share unevenly."""
    draw, start = torch.Generator().manual_seed(5), Transformer(LLAMA, seed=1)
    if team.leads:
        write_tensors(folder / FISHER, {n: torch.rand(p.shape, generator=draw) for n, p in start.named_parameters()})
        write_tensors(folder / ANCHOR, {n: p.detach() for n, p in start.named_parameters()})
    team.barrier()
    return {str(mesh): compared(team, mesh, batches(3), penalty=lambda: Ewc(folder, start, 0.5), objective=partial(
        causal_lm, terms=() if "tensor" in mesh else (kl_to(start, weight=0.5),)))
            for mesh in ({}, {"shard": 2}, {"tensor": 2})}


def half(team: Team, folder: Path) -> dict:
    return {str(mesh): compared(team, mesh, batches(2), compute=torch.bfloat16)
            for mesh in ({"shard": 2}, {"tensor": 2})}


def losses(team: Team, folder: Path) -> dict:
    """The split head against the whole one: values and gradients, with every term."""
    draw = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(300, 8, generator=draw), torch.randn(38, 8, generator=draw)
    targets, weights = torch.randint(0, 38, (300,), generator=draw), torch.rand(300, generator=draw)
    mesh = torch.distributed.init_device_mesh("cpu", (2,))
    found = {}
    for terms in ({}, {"label_smoothing": 0.1, "z_loss": 1e-2, "softcap": 3.0, "entropy": True}):
        h, w = (x.clone().requires_grad_() for x in (hidden, weight))
        total, rows = linear_ce.linear_cross_entropy(h, w, targets, weights, **terms)
        logp = linear_ce.linear_logp(h, w, targets, softcap=terms.get("softcap"))
        (total + (logp * weights).sum() * 0.3).backward()
        split_h = hidden.clone().requires_grad_()
        split_w = distribute_tensor(weight, mesh, [Shard(0)])
        split_w = split_w.detach().requires_grad_()
        total_, rows_ = parallel_ce.linear_cross_entropy(split_h, split_w, targets, weights, **terms)
        logp_ = parallel_ce.linear_logp(split_h, split_w, targets, softcap=terms.get("softcap"))
        (total_ + (logp_ * weights).sum() * 0.3).backward()
        pairs = {"total": (total, total_), "nll": (rows.nll, rows_.nll), "loss": (rows.loss, rows_.loss),
                 "correct": (rows.correct.float(), rows_.correct.float()), "logp": (logp, logp_),
                 "entropy": (rows.entropy, rows_.entropy),
                 "d_hidden": (h.grad, split_h.grad), "d_weight": (w.grad, split_w.grad.full_tensor())}
        found[str(terms)] = {name: float((a - b).detach().abs().max() / a.detach().abs().max().clamp(min=1))
                             for name, (a, b) in pairs.items()}
    return found


def resharded(team: Team, folder: Path) -> dict:
    """Two ranks, then one, then two: every checkpoint is read by whoever comes next."""
    found, stream = {}, batches(2)
    for name in ("adamw", "muon"):
        for mesh in ({"shard": 2}, {"tensor": 2}):
            place = folder / f"{name}-{next(iter(mesh))}"
            if team.leads:
                place.mkdir()
            team.barrier()
            undisturbed = state_of(None, {}, name=name)
            trained(undisturbed, stream, until=3)
            two = state_of(team, mesh, name=name)
            trained(two, stream, until=1)
            files = save_shards(two, place)
            again = state_of(team, mesh, name=name, seed=7)
            load_shards(again, place)
            same = all(torch.equal(a, b) for a, b in zip(again.ranks.held.parameters(), two.ranks.held.parameters(),
                                                         strict=True))
            kept, back = (moments(state.ranks.held, state.optimizers) for state in (two, again))
            same = same and kept.keys() == back.keys() and all(torch.equal(kept[key], back[key]) for key in kept)
            one = state_of(None, {}, name=name, seed=8)
            load_shards(one, place)
            one.step, one.tokens = two.step, two.tokens
            whole = consolidate(place)
            same = same and whole.keys() == model_weights(one.model).keys() and all(
                torch.equal(whole[key], w) for key, w in model_weights(one.model).items())
            trained(one, stream, until=2)
            plain = folder / f"{place.name}-plain-{team.rank}"
            plain.mkdir()
            write_tensors(plain / "model.safetensors", {k: w.detach() for k, w in model_weights(one.model).items()})
            write_tensors(plain / "optim.safetensors", moments(one.model, one.optimizers))
            last = state_of(team, mesh, name=name, seed=9)
            load_shards(last, plain)
            last.step, last.tokens = one.step, one.tokens
            trained(last, stream, until=3)
            found[place.name] = {"exact": all(team.gather(same)), "weights": off(last, undisturbed),
                                 "files": sorted(files)}
    return found


def refused(team: Team, folder: Path) -> dict:
    told = {}
    for what, make in {"mesh": lambda: state_of(team, {"shard": 3}), "8 bits": lambda: state_of(
            team, {"shard": 2}, name="adamw8bit"), "heads": lambda: apply(Transformer(ModelConfig(
                vocabulary=38, width=8, heads=3, kv_heads=3, head_width=4, hidden=8)), team, ParallelConfig(tensor=2)),
                       "other model": lambda: load_shards(state_of(team, {"shard": 2}, model="gpt2"),
                                                          folder / "adamw-shard")}.items():
        try:
            make()
        except BloomeryError as error:
            told[what] = str(error)
    return told


def end_of_one(team: Team, how: str) -> None:
    """Rank 1 goes in the middle of training: killed, by an error of its own, or it never comes back."""
    def objective(model, batch):
        if team.rank == 1 and state.step == 1:
            if how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if how == "failed":
                raise ZeroDivisionError("a defect of rank 1")
            time.sleep(15)
        return causal_lm(model, batch)

    state = state_of(team, {})
    fit(state, batches(2), objective)


CHECKS = {"exact": exact, "stopped": stopped, "split": split, "remembering": remembering, "half": half,
          "losses": losses, "resharded": resharded, "refused": refused}


def many(team: Team) -> dict:
    """Meshes of two kinds at once, for four ranks; and what a number of ranks that is no power of two does."""
    meshes = ({}, {"replicate": 2, "shard": 2}, {"shard": 2, "tensor": 2}, {"tensor": 2}) if team.size == 4 else ({},)
    return {f"{mesh} {name}": compared(team, mesh, batches(7), name=name)
            for mesh in meshes for name in ("adamw", "muon")}


def main(out: Path, how: str) -> None:
    torch.set_num_threads(1)
    team = join(timeout=4 if how == "hung" else 60)
    found = {}
    if how == "many":
        found = many(team)
        if team.leads:
            out.write_text(json.dumps(found))
        team.leave()
        return
    if how == "checks":
        found["team"] = team.gather(words(team))
        for name, check in CHECKS.items():
            found[name] = check(team, out.parent)
        if team.leads:
            out.write_text(json.dumps(found))
        how = "killed"
    start = time.monotonic()
    try:
        end_of_one(team, how)
    except BloomeryError as error:
        if team.leads:
            out.write_text(json.dumps(found | {"lost": str(error), "seconds": time.monotonic() - start}))
        raise


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
