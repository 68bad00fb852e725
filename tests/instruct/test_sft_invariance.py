"""However conversations are laid out, loss and gradients are the same: one by one, padded, packed, split, shared.

transformers pads its own way and computes the same; its shapes and ours are the same numbers to rounding only.
"""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from instruct_data import dialogues
from torch.nn.functional import cross_entropy

from bloomery.data.tasks import Example, micro_batches
from bloomery.instruct.examples import rendered_runs
from bloomery.instruct.measures import objective
from bloomery.model.store import load_model
from bloomery.model.transformer import Transformer
from bloomery.text.chat import load_renderer
from bloomery.train.loop import train_step
from bloomery.train.optim import OptimizerConfig
from bloomery.train.state import fresh

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def examples(base) -> list[Example]:
    return rendered_runs(dialogues(), load_renderer(base), 96, where="here")[0]


def ours(base: Path, groups: list[list[Example]]) -> tuple[float, dict[str, torch.Tensor]]:
    """Mean loss a trained token over micro-batches, and the gradient of it."""
    model = load_model(base)
    batches = [micro_batches(group, 10_000)[0] for group in groups]
    count = sum(batch.count for batch in batches)
    total = 0.0
    for batch in batches:
        loss, _ = objective(model, batch)
        (loss / count).backward()
        total += float(loss.detach()) / count
    return total, {name: weight.grad for name, weight in model.named_parameters()}


def theirs(base: Path, folder: Path, examples: list[Example], side: str) -> tuple[float, dict[str, torch.Tensor]]:
    """The same by transformers, rows padded on one side; gradients come back under our names through a folder."""
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager")
    longest = max(len(e.ids) for e in examples)
    ids, labels, mask = (torch.full((len(examples), longest), fill) for fill in (0, -100, 0))
    for row, e in enumerate(examples):
        place = slice(longest - len(e.ids), longest) if side == "left" else slice(0, len(e.ids))
        ids[row, place], mask[row, place] = torch.tensor(e.ids), 1
        labels[row, place] = torch.tensor([t if w else -100 for t, w in zip(e.targets, e.weights, strict=True)])
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    logits = model(input_ids=ids, attention_mask=mask, position_ids=positions).logits
    loss = cross_entropy(logits.flatten(0, 1), labels.flatten())
    loss.backward()
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(weight.grad)
    model.save_pretrained(folder)
    return float(loss.detach()), dict(load_model(folder).named_parameters())


def assert_same(found: tuple[float, dict], wanted: tuple[float, dict], tolerance: float = 1e-5) -> None:
    assert found[0] == pytest.approx(wanted[0], rel=1e-6)
    assert found[1].keys() == wanted[1].keys()
    for name, gradient in found[1].items():
        torch.testing.assert_close(gradient, wanted[1][name].detach(), rtol=1e-4, atol=tolerance, msg=name)


def test_packed_is_one_by_one(base, examples):
    assert_same(ours(base, [examples]), ours(base, [[e] for e in examples]))


@pytest.mark.parametrize("side", ["left", "right"])
def test_packed_is_what_transformers_computes_of_padded_rows(base, examples, side, tmp_path):
    assert_same(ours(base, [examples]), theirs(base, tmp_path, examples, side))


def stepped(base: Path, examples: list[Example], capacity: int) -> tuple[int, dict, Transformer]:
    """One optimizer step with micro-batches of `capacity` tokens: how many there were, what was told, the weights."""
    state = fresh(load_model(base), OptimizerConfig(name="sgd", lr=1e-1, warmup=0.0), steps=10)
    batches = micro_batches(examples, capacity)
    report = train_step(state, batches, objective, clip=1.0)
    return len(batches), report.metrics | {"grad_norm": report.grad_norm}, state.model


def test_any_number_of_micro_batches_gives_the_same_step_and_the_same_figures(base, examples):
    longest = max(len(e.ids) for e in examples)
    whole, four, seven = (stepped(base, examples, size) for size in (10_000, 4 * longest, 2 * longest + 8))
    assert whole[0] == 1 and four[0] >= 4 and seven[0] >= 7
    for parts in (four, seven):
        for name, value in whole[1].items():
            if name != "packing_efficiency":
                assert parts[1][name] == pytest.approx(value, rel=1e-5), name
        for name, weight in parts[2].named_parameters():
            torch.testing.assert_close(weight, whole[2].get_parameter(name), rtol=0, atol=2e-6, msg=name)


@pytest.mark.slow
def test_two_processes_train_as_one(base, chats, tmp_path):
    def options(out: Path) -> list[str]:
        return ["sft", f"model={base}", f"data={chats}", f"out={out}", "steps=3", "examples=12", "micro_tokens=100",
                "precision=fp32", "beside_base=0", "adapt.method=lora", "adapt.rank=4", "retention.kl.weight=0.1"]

    def start(out: Path, **rank: str) -> subprocess.Popen:
        return subprocess.Popen([sys.executable, "-m", "bloomery.cli", *options(out)], cwd=ROOT, text=True,
                                stderr=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1",
                                                                          "PYTHONPATH": str(ROOT)} | rank)

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    team = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    alone = start(tmp_path / "alone")
    ranks = [start(tmp_path / "shared", RANK=str(rank), LOCAL_RANK=str(rank), **team) for rank in range(2)]
    said = [process.communicate(timeout=120)[1] for process in (alone, *ranks)]
    assert [process.returncode for process in (alone, *ranks)] == [0, 0, 0], "\n".join(said)
    for name in ("model.safetensors", "adapter/adapter_model.safetensors"):
        assert (tmp_path / "alone" / name).read_bytes() == (tmp_path / "shared" / name).read_bytes(), name
