"""The preference stage: what it reads, refuses, tells and writes, with every way of adapting and every reference."""

import json
import math
from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from bloomery import stages
from bloomery.align import preference
from bloomery.align.pairs import Pair
from bloomery.align.preference import Config, LearnConfig, learn
from bloomery.core.errors import ConfigError, InputError, Preempted
from bloomery.core.files import write_jsonl
from bloomery.core.metrics import read_metrics
from bloomery.model.config import ModelConfig
from bloomery.model.forest import Forest, roots
from bloomery.model.peft_files import load_adapter
from bloomery.model.store import load_model, save_model
from bloomery.model.transformer import Transformer
from bloomery.show import lesson_of_pairs
from bloomery.text.chat import load_renderer
from bloomery.text.templates import TEMPLATES
from bloomery.text.tokenizer import train_tokenizer
from bloomery.train.hooks import stop_signal

FAST = {"steps": 4, "pairs": 4, "precision": "fp32", "validate_every": 2,
        "optimizer": {"lr": 1e-2, "warmup": 0.0, "schedule": "constant"}}
PAIRS = [{"prompt": f"What is {n} + 1?", "chosen": f"It is {n + 1}.", "rejected": f"I think it is {n}, or more"}
         for n in range(24)]
HELD_OUT = [{"prompt": f"And {n} + 1?", "chosen": f"It is {n + 1}.", "rejected": f"I do not know {n}"}
            for n in range(8)]
pytestmark = pytest.mark.usefixtures("handlers")


@pytest.fixture(scope="module")
def assistant(tmp_path_factory) -> Path:
    """A model folder with random weights that chats."""
    folder = tmp_path_factory.mktemp("assistant")
    tokenizer = train_tokenizer([json.dumps(row) for row in PAIRS], vocabulary=300)
    config = ModelConfig(vocabulary=tokenizer.size, context=64, depth=2, width=32, heads=4, kv_heads=2, head_width=8,
                         hidden=48)
    save_model(Transformer(config, seed=1), folder, bos=tokenizer.eos, eos=[tokenizer.eos])
    tokenizer.save(folder, context=64, chat_template=TEMPLATES["chatml"].jinja())
    return folder


def made(out: Path, model: Path, rows: list[dict] = PAIRS, held_out: list[dict] = HELD_OUT, **options) -> dict:
    out.mkdir(exist_ok=True)
    write_jsonl(out.parent / "data.jsonl", rows)
    write_jsonl(out.parent / "validation.jsonl", held_out)
    given = {"model": str(model), "data": str(out.parent / "data.jsonl"),
             "validation": str(out.parent / "validation.jsonl")}
    return preference.run(Config(**FAST | given | options), out)


def losses(out: Path) -> list[float]:
    return [row["loss"] for row in read_metrics(out / "metrics.jsonl") if "loss" in row]


# --- learning -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("verb", stages.PREFERENCES)
def test_every_verb_learns_to_tell_answers_apart(verb, assistant, tmp_path):
    beta = {} if verb in ("simpo", "sppo") else {"beta": 0.3}
    found = made(tmp_path / "out", assistant, steps=6, **stages.STAGES[verb].preset | beta)
    rows = read_metrics(tmp_path / "out" / "metrics.jsonl")
    told = [row["val_loss"] for row in rows if "val_loss" in row]
    assert told[-1] < told[0] and found["val_rewards/accuracies"] == 1.0 and found["val_rewards/margins"] > 0
    assert load_model(tmp_path / "out").config == load_model(assistant).config


def test_what_is_measured_is_what_is_trained(assistant, tmp_path):
    """The held-out pairs are the training pairs: the loss of a validation is that of a step over all of them."""
    for loss in ("dpo", "ipo", "orpo"):
        made(tmp_path / loss, assistant, rows=PAIRS[:4], held_out=PAIRS[:4], steps=1, loss=loss, beta=0.2)
        rows = read_metrics(tmp_path / loss / "metrics.jsonl")
        for name in ("loss", "rewards/margins", "logps/chosen", "nll_loss"):
            assert rows[1][name] == pytest.approx(rows[0][f"val_{name}"], abs=1e-4), (loss, name)


def test_data_is_described_before_training(assistant, tmp_path, capsys):
    longer = [row | {"margin": 1.0} for row in PAIRS[:3]]
    found = made(tmp_path / "out", assistant, rows=PAIRS + longer, held_out=HELD_OUT + PAIRS[:2], steps=1)
    said = capsys.readouterr().err
    assert found["shared_prompts"] == 2 and "2 of 10 held-out prompts are trained on" in said
    assert "3 pairs have a margin, which is not looked at: margin_scale=1" in said
    assert "the chosen answer is the longer in 0%" in said and found["tokens/chosen_longer"] == 0
    assert found["tokens/rejected_max"] > found["tokens/chosen_max"] > 0


def test_a_fall_of_the_chosen_answers_is_said_in_plain_words(assistant, tmp_path, capsys):
    made(tmp_path / "out", assistant, loss="apo_down", beta=1.0, steps=8, optimizer={"lr": 3e-2, "warmup": 0.0})
    told = [row["val_logps/chosen"] for row in read_metrics(tmp_path / "out" / "metrics.jsonl")
            if "val_logps/chosen" in row]
    assert told[-1] < told[0] - 5 and "the chosen answers have become less likely too" in capsys.readouterr().err


def test_early_stopping_brings_the_best_weights_back(assistant, tmp_path):
    """Held-out pairs say the opposite of the training pairs, so the first weights are the best."""
    turned = [row | {"chosen": row["rejected"], "rejected": row["chosen"]} for row in HELD_OUT]
    found = made(tmp_path / "out", assistant, held_out=turned, steps=40, validate_every=1,
                 early_stopping={"metric": "val_loss", "patience": 2})
    assert len(losses(tmp_path / "out")) < 10 and found["best_step"] == 0
    for name, weight in load_model(assistant).state_dict().items():
        assert torch.equal(weight, load_model(tmp_path / "out").state_dict()[name]), name


@pytest.mark.parametrize("method", ["full", "lora", "prefix"])
def test_the_policy_s_own_answers_are_looked_at_and_shown(method, assistant, tmp_path):
    found = made(tmp_path / "out", assistant, steps=3, watch={"prompts": 3, "max_tokens": 5, "shown": 2},
                 adapt={"method": method, "prefix_tokens": 2}, sample_every=3, sample_prompts=["What is 1 + 1?"])
    assert found["val_kl_exact"] > 0 and 0 < found["val_answer_tokens"] <= 5
    rows = json.loads((tmp_path / "out" / "answers.json").read_text())
    assert len(rows) == 2 and rows[0]["prompt"].startswith("And") and rows[0]["answers"].keys() == {"before", "after"}


# --- the reference ------------------------------------------------------------------------------------------------

def test_a_lora_s_reference_is_the_model_with_its_adapter_off(assistant, tmp_path):
    lora = {"adapt": {"method": "lora", "rank": 4}}
    told = {}
    for reference in ("cached", "adapter_off"):
        found = made(tmp_path / reference, assistant, reference=reference, steps=8, **lora)
        told[reference] = losses(tmp_path / reference)
        assert bool(list((tmp_path / reference).glob("reference-*"))) == (reference == "cached")
    assert told["cached"] == pytest.approx(told["adapter_off"], abs=1e-5)
    assert told["cached"][0] == pytest.approx(math.log(2), abs=1e-5) and told["cached"][-1] < 0.6
    assert 0 < found["trained_share"] < 0.5
    plain, adapted = load_model(tmp_path / "cached"), load_adapter(load_model(assistant), tmp_path / "cached/adapter")
    ids = torch.arange(20)
    with torch.no_grad():
        torch.testing.assert_close(*(hidden(each, ids) for each in (plain, adapted)), atol=1e-5, rtol=1e-5)


def hidden(model: Transformer, ids: torch.Tensor) -> torch.Tensor:
    return model(ids, torch.arange(len(ids)), Forest(roots([len(ids)])))


@pytest.mark.parametrize(("steps", "is_cached"), [(6, False), (7, True)])
def test_where_no_pair_is_seen_twice_nothing_is_made_before_training(steps, is_cached, assistant, tmp_path):
    """24 pairs are six steps of four."""
    made(tmp_path / "out", assistant, steps=steps, adapt={"method": "lora", "rank": 2})
    assert bool(list((tmp_path / "out").glob("reference-*"))) == is_cached


@pytest.mark.parametrize("method", ["qlora", "adapter", "prefix", "ia3"])
def test_every_way_of_adapting_starts_at_its_reference(method, assistant, tmp_path):
    made(tmp_path / "out", assistant, rows=PAIRS[:4], steps=3, adapt={"method": method, "prefix_tokens": 2})
    told = losses(tmp_path / "out")
    assert told[-1] < told[0] and (method == "prefix" or told[0] == pytest.approx(math.log(2), abs=1e-5))
    kept = load_model(tmp_path / "out")                         # the model, or the adapter that finds its base
    assert any(not torch.equal(weight, load_model(assistant).state_dict().get(name, weight + 1))
               for name, weight in kept.state_dict().items())


def test_the_reference_is_kept_by_model_and_data_and_shared_if_asked_for(assistant, tmp_path):
    kept = {"reference_cache": str(tmp_path / "kept")}
    made(tmp_path / "a", assistant, **kept)
    (file,) = (tmp_path / "kept").iterdir()
    made(tmp_path / "b", assistant, loss="hinge", **kept)                       # the same model and data: found
    assert list((tmp_path / "kept").iterdir()) == [file]
    logps = load_file(file)["logps"]
    save_file({"logps": logps + torch.tensor([5.0, 0.0])}, file)
    made(tmp_path / "c", assistant, **kept)
    assert losses(tmp_path / "c")[0] == pytest.approx(math.log1p(math.exp(0.5)), abs=1e-4)      # it is what is read
    made(tmp_path / "d", assistant, rows=PAIRS[1:], **kept)                     # other data
    made(tmp_path / "e", tmp_path / "a", **kept)                                # another model
    made(tmp_path / "f", assistant, tail=0.5, **kept)                           # other weights of tokens
    assert len(list((tmp_path / "kept").iterdir())) == 4
    made(tmp_path / "g", assistant, loss="orpo")
    assert not list((tmp_path / "g").glob("reference-*"))


def test_pairs_in_memory_are_learned_against_any_reference(assistant, tmp_path):
    """What rounds of self-play do: the reference is another model than the one that learns."""
    model, other = load_model(assistant), load_model(assistant)
    with torch.no_grad():
        for weight in other.parameters():
            weight += 0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    pairs = [Pair([5, 6, n], [7, n + 1], [8, 9, n]) for n in range(10, 18)]
    config = LearnConfig(**FAST | {"model": str(assistant)}, loss="spin")
    state = learn(model, other, pairs, config, tmp_path)
    assert state.step == 4 and losses(tmp_path)[0] != pytest.approx(math.log(2), abs=1e-4)
    logps = preference.score_pairs(other, pairs, 1000)
    (file,) = tmp_path.glob("reference-*")
    torch.testing.assert_close(load_file(file)["logps"], logps)


@pytest.mark.parametrize("options", [{}, {"adapt": {"method": "lora"}, "reference": "adapter_off"}, {"loss": "kto"}],
                         ids=["cached", "adapter off", "kto"])
def test_a_run_that_was_stopped_ends_where_an_undisturbed_one_does(options, assistant, tmp_path, monkeypatch):
    options = {"steps": 6, "save_every": 2} | options
    made(tmp_path / "whole", assistant, **options)
    original = preference.made

    def stopping(*given):
        stream, objective = original(*given)

        def batches(step: int):
            stop_signal.reason = "the test asks" if step >= 3 else None
            return stream(step)

        return batches, objective

    with monkeypatch.context() as patch, pytest.raises(Preempted):
        patch.setattr(preference, "made", stopping)
        made(tmp_path / "stopped", assistant, **options)
    made(tmp_path / "stopped", assistant, **options)
    assert losses(tmp_path / "stopped") == losses(tmp_path / "whole") and len(losses(tmp_path / "whole")) == 6
    assert (tmp_path / "whole/model.safetensors").read_bytes() == (tmp_path / "stopped/model.safetensors").read_bytes()


# --- kto ----------------------------------------------------------------------------------------------------------

def test_kto_reads_ratings_and_pairs_alike(assistant, tmp_path, capsys):
    rated = [{"prompt": row["prompt"], "completion": row[name], "label": name == "chosen"} for row in PAIRS
             for name in ("chosen", "rejected")]
    held_out = rated[:6]
    one = made(tmp_path / "ratings", assistant, rated, held_out, loss="kto")
    other = made(tmp_path / "pairs", assistant, PAIRS, HELD_OUT, loss="kto")
    assert one["ratings"] == other["ratings"] == 48 and losses(tmp_path / "ratings") == losses(tmp_path / "pairs")
    assert "of each pair the chosen answer counts as desirable" in capsys.readouterr().err
    shown = StringIO()
    lesson_of_pairs({"data": str(tmp_path / "data.jsonl"), "loss": "kto"}, load_renderer(assistant),
                    Console(file=shown), 2)
    assert "What is 0 + 1?" in shown.getvalue()
    with pytest.raises(InputError, match="no row can be used|a file in no known format"):
        made(tmp_path / "none", assistant, [{"text": "neither"}], HELD_OUT, loss="kto")


def test_kto_says_when_its_two_kinds_are_out_of_balance(assistant, tmp_path, capsys):
    rated = [{"prompt": row["prompt"], "completion": row["chosen"], "label": n % 4 == 0} for n, row in enumerate(PAIRS)]
    made(tmp_path / "out", assistant, rated, rated[:4], loss="kto", steps=1)
    assert "6 desirable and 18 undesirable answers weigh 0.33 to 1" in capsys.readouterr().err
    made(tmp_path / "again", assistant, rated, rated[:4], loss="kto", steps=1, desirable_weight=3.5)
    assert "desirable and" not in capsys.readouterr().err


# --- refusals -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("options", "said"), [
    ({"reference": "adapter_off"}, "no adapter that could be off"),
    ({"loss": "kto", "pairs": 1}, "no estimate of the KL"),
    ({"adapt": {"method": "lora"}, "parallel": {"shard": 2}}, "not split over ranks"),
])
def test_options_that_exclude_each_other_are_refused_before_data_is_read(options, said, assistant, tmp_path):
    config = Config(**FAST | {"model": str(assistant), "data": "nowhere.jsonl"} | options)
    with pytest.raises(ConfigError, match=said):
        preference.run(config, tmp_path)


@pytest.mark.parametrize(("row", "option", "said"), [
    ({"chosen": ""}, "empty_answers", "1 rows have empty answers"),
    ({"chosen": "same", "rejected": "same"}, "equal_answers", "1 rows have equal answers"),
    ({"chosen": " same", "rejected": "same "}, "equal_answers", "equal answers"),
    ({"chosen": "much too long " * 30}, "too_long", "too long"),
])
def test_rows_are_dropped_and_counted_or_refused_as_asked_for(row, option, said, assistant, tmp_path):
    rows = [*PAIRS, PAIRS[0] | row]
    found = made(tmp_path / "out", assistant, rows, steps=1)
    assert found["pairs"] == 24 and found["quarantined"] + found[f"dropped/{option}"] == 1
    with pytest.raises(InputError, match=said):
        made(tmp_path / "refused", assistant, rows, steps=1, **{option: "error"})
