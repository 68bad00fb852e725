"""The flat loops in examples/ run as programs, learn, and do the library's own steps."""

import subprocess
import sys
from pathlib import Path

import pytest

from bloomery.align.pairs import render_pairs
from bloomery.align.preference import LearnConfig, learn
from bloomery.align.reference import score_pairs
from bloomery.core.files import Quarantine
from bloomery.core.metrics import read_metrics
from bloomery.core.records import Message
from bloomery.data.batch import forest, sequence
from bloomery.data.formats import conversations, preferences
from bloomery.data.stream import samples
from bloomery.generate.decode import complete
from bloomery.model.adapt import AdaptConfig, adapt
from bloomery.model.peft_files import load_adapter
from bloomery.model.presets import sized
from bloomery.model.store import load_model, save_model
from bloomery.model.transformer import Transformer
from bloomery.text.chat import load_renderer
from bloomery.text.templates import TEMPLATES
from bloomery.text.tokenizer import train_tokenizer
from bloomery.train.loop import fit as train
from bloomery.train.objective import causal_lm
from bloomery.train.optim import OptimizerConfig
from bloomery.train.state import fresh
from examples import dpo_flat, sft_flat
from tests.miniature import write_rows

ROOT = Path(__file__).parents[1]
ASKED = ["red", "green", "blue", "round", "square"]


@pytest.fixture(scope="module")
def room(tmp_path_factory) -> Path:                                                      # noqa: ANN001
    """A tiny model that knows nothing, and five questions with answers."""
    place = tmp_path_factory.mktemp("examples")
    tokenizer = train_tokenizer(["what goes with red green blue round square? fire grass sky ball box"], vocabulary=300)
    model = Transformer(sized(1, vocabulary=tokenizer.size, context=64, width=64, heads=2), seed=1)
    save_model(model, place / "base", bos=tokenizer.eos, eos=[tokenizer.turn_end])
    tokenizer.save(place / "base", context=64, chat_template=TEMPLATES["chatml"].jinja())
    write_rows(place / "chat.jsonl", [{"prompt": f"what goes with {word}?", "completion": f"{word} {answer}"} for
                                      word, answer in zip(ASKED, ["fire", "grass", "sky", "ball", "box"], strict=True)])
    write_rows(place / "pairs.jsonl", [{"prompt": f"what goes with {word}?", "chosen": f"{word} {answer}",
                                        "rejected": f"{word} {wrong}"} for word, answer, wrong in
                                       zip(ASKED, ["fire", "grass", "sky", "ball", "box"],
                                           ["sky and ball", "fire", "box", "grass", "fire"], strict=True)])
    return place


def library(room: Path, *, steps: int, examples: int, lora: int = 0) -> list[float]:
    """The losses of the same run by `fit`, every step as one batch."""
    model, renderer = load_model(room / "base"), load_renderer(room / "base")
    adapt(model, AdaptConfig(method="lora" if lora else "full", rank=lora or 16), seed=0)
    rendered = [renderer.conversation(each.messages) for each in conversations(str(room / "chat.jsonl"), Quarantine())]
    runs = [sequence(each.ids, each.weights) for each in rendered]
    losses: list[float] = []
    train(fresh(model, OptimizerConfig(lr=1e-2), steps=steps),
          lambda step: [forest([runs[i] for i in samples(step, examples, len(runs), 0)])], causal_lm,
          (lambda _, report: losses.append(report.metrics["loss"]),))
    return losses


def test_it_runs_as_a_program_and_what_it_writes_answers(room):
    done = subprocess.run([sys.executable, "examples/sft_flat.py", room / "base", room / "chat.jsonl", room / "tuned",
                           "steps=60", "examples=5", "lr=1e-2", "precision=fp32"], cwd=ROOT,
                          env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "step 60/60" in done.stderr and "tokens trained" in done.stderr
    model, renderer = load_model(room / "tuned"), load_renderer(room / "tuned")
    prompts = [renderer.prompt((Message("user", f"what goes with {word}?"),)) for word in ASKED]
    said = complete(model, prompts, ends=set(renderer.ends), max_tokens=12)
    assert [renderer.tokenizer.decode(each.ids) for each in said][:2] == ["red fire", "green grass"]
    assert {each.finish for each in said} == {"stop"}           # the turn's end is learned with the words


@pytest.mark.parametrize("lora", [0, 4])
def test_its_losses_are_those_of_the_library_whatever_the_micro_batches(room, lora, tmp_path):
    ours = [sft_flat.main(room / "base", str(room / "chat.jsonl"), tmp_path, steps=6, examples=4, lr=1e-2, lora=lora,
                          precision="fp32", micro_tokens=tokens) for tokens in (8192, 32)]
    assert ours[0] == pytest.approx(library(room, steps=6, examples=4, lora=lora), rel=1e-5)
    assert ours[1] == pytest.approx(ours[0], rel=1e-4) and ours[0][-1] < ours[0][0] - (0.02 if lora else 0.5)


def test_an_adapter_it_writes_can_be_loaded(room, tmp_path):
    sft_flat.main(room / "base", str(room / "chat.jsonl"), tmp_path, steps=2, examples=4, lora=4, precision="fp32")
    model = load_adapter(load_model(room / "base"), tmp_path)
    assert not any(p.requires_grad for p in model.parameters())
    assert any(bool((p != 0).any()) for name, p in model.named_parameters() if name.endswith("default_b0"))


def test_nothing_to_train_on_is_said(room, tmp_path):
    write_rows(tmp_path / "long.jsonl", [{"prompt": "red " * 99, "completion": "fire"}])
    with pytest.raises(SystemExit, match="nothing to train on in 1 conversations"):
        sft_flat.main(room / "base", str(tmp_path / "long.jsonl"), tmp_path / "out", precision="fp32")


# --- preferences --------------------------------------------------------------------------------------------------

def test_preferring_as_a_program_makes_the_better_answers_likelier(room, tmp_path):
    done = subprocess.run([sys.executable, "examples/dpo_flat.py", room / "base", room / "pairs.jsonl", tmp_path / "a",
                           "steps=12", "pairs=5", "lr=1e-3", "precision=fp32"], cwd=ROOT,
                          env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "5 pairs; 0 dropped" in done.stderr and "step 12/12" in done.stderr
    pairs, _ = rendered_pairs(room)
    before, after = (score_pairs(load_model(folder), pairs, 8192) for folder in (room / "base", tmp_path / "a"))
    assert (after - before).diff(dim=1).lt(0).all()             # of every pair the margin has grown


@pytest.mark.parametrize("nll", [0.0, 0.5])
def test_preferring_takes_the_steps_of_the_stage_whatever_the_micro_batches(room, nll, tmp_path):
    ours = [dpo_flat.main(room / "base", str(room / "pairs.jsonl"), tmp_path / "a", steps=5, pairs=3, nll=nll, lr=1e-3,
                          precision="fp32", micro_tokens=tokens) for tokens in (8192, 24)]
    config = LearnConfig(model=str(room / "base"), steps=5, pairs=3, nll=nll, precision="fp32",
                         optimizer=OptimizerConfig(lr=1e-3))
    learn(load_model(room / "base"), None, rendered_pairs(room)[0], config, tmp_path)
    stage = [row["loss"] for row in read_metrics(tmp_path / "metrics.jsonl") if "loss" in row]
    assert len(stage) == 5 and ours[0] == pytest.approx(stage, rel=1e-4)
    assert ours[1] == pytest.approx(ours[0], rel=1e-4) and ours[0][-1] < ours[0][0]


def rendered_pairs(room: Path) -> tuple:
    return render_pairs(preferences(str(room / "pairs.jsonl"), Quarantine()), load_renderer(room / "base"), 64,
                        where="pairs")


def test_no_pairs_to_learn_from_is_said(room, tmp_path):
    write_rows(tmp_path / "long.jsonl", [{"prompt": "red " * 99, "chosen": "fire", "rejected": "box"}])
    with pytest.raises(SystemExit, match="nothing to learn in 1 pairs"):
        dpo_flat.main(room / "base", str(tmp_path / "long.jsonl"), tmp_path / "out", precision="fp32")


@pytest.mark.parametrize("name", ["sft_flat", "dpo_flat"])
def test_it_fits_on_two_screens(name):
    assert len((ROOT / "examples" / f"{name}.py").read_text().splitlines()) <= 120
