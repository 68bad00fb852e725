"""The sft stage: what it draws, trains, measures, tells and writes, with every way of adapting and after a stop."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from instruct_data import dialogues, row

from bloomery.core.errors import ConfigError, InputError, Preempted
from bloomery.core.files import Quarantine, write_jsonl
from bloomery.core.metrics import read_metrics
from bloomery.data.formats import conversation_row, conversations
from bloomery.data.tasks import Example, micro_batches
from bloomery.instruct import run as sft
from bloomery.instruct.examples import by_split, packed, rendered_runs
from bloomery.instruct.measures import ending, objective
from bloomery.losses.token import token_nll
from bloomery.model.forest import Forest
from bloomery.model.peft_files import load_adapter, load_adapter_config
from bloomery.model.store import load_model
from bloomery.text.chat import load_renderer
from bloomery.train.hooks import stop_signal

FAST = {"steps": 4, "examples": 8, "precision": "fp32", "validate_every": 2, "beside_base": 0,
        "optimizer": {"lr": 1e-2, "warmup": 0.0}}
pytestmark = pytest.mark.usefixtures("handlers")


def made(out: Path, base: Path, **options) -> dict:
    out.mkdir(exist_ok=True)
    return sft.run(sft.Config(**FAST | {"model": str(base)} | options), out)


def logits(model, ids: list[int]) -> torch.Tensor:
    batch = micro_batches(rendered([ids]), 1000)[0]
    with torch.no_grad():
        return model.logits(model(batch.ids, batch.positions, Forest(batch.segments)))


def rendered(sequences: list[list[int]]) -> list[Example]:
    return [Example(ids[:-1], ids[1:], [1.0] * (len(ids) - 1)) for ids in sequences]


# --- what is told -------------------------------------------------------------------------------------------------

def test_figures_of_a_step_are_their_definitions(base):
    examples, counts = rendered_runs(dialogues(), load_renderer(base), 96, where="here")
    model = load_model(base)
    batches = packed(examples, examples=len(examples), micro_tokens=150, seed=0)(0)
    assert len(batches) > 3 and counts["examples"] == 22
    told: dict[str, float] = {}
    for batch in batches:
        for name, value in objective(model, batch)[1].items():
            told[name] = told.get(name, 0.0) + value / batches.count
    losses, entropies = {}, []
    for e in examples:
        batch = micro_batches([e], 1000)[0]
        scores = model.logits(model(batch.ids, batch.positions, Forest(batch.segments))).double().detach()
        kept = batch.weights != 0
        losses.setdefault(e.task, []).append(token_nll(scores, batch.targets)[kept])
        entropies.append(torch.distributions.Categorical(logits=scores[kept]).entropy())
    every = torch.cat([nll for own in losses.values() for nll in own])
    assert told["loss"] == pytest.approx(float(every.mean()), rel=1e-5)
    assert told["entropy"] == pytest.approx(float(torch.cat(entropies).mean()), rel=1e-5)
    for task, own in losses.items():
        assert told[f"loss/{task}"] == pytest.approx(float(torch.cat(own).mean()), rel=1e-5), task
    tokens = sum(len(e.ids) for e in examples)
    assert told["supervised_tokens"] == pytest.approx(len(every)) == counts["supervised_tokens"]
    assert told["supervised_share"] == pytest.approx(len(every) / tokens)
    assert told["packing_efficiency"] == pytest.approx(tokens / (len(batches) * 150))


def test_the_probability_of_the_turn_end_is_taken_where_answers_end(base):
    renderer, model = load_renderer(base), load_model(base)
    examples, _ = rendered_runs(dialogues()[:3], renderer, 96, where="here")
    wanted = []
    for e in examples:
        (place,) = [i for i, (t, w) in enumerate(zip(e.targets, e.weights, strict=True)) if w and t == renderer.end]
        scores = logits(model, [*e.ids, e.targets[-1]])
        wanted.append(float(scores[place].double().softmax(-1)[renderer.end]))
    assert ending(model, examples, renderer.end, 100) == {
        "turn_end_probability": pytest.approx(sum(wanted) / 3, rel=1e-5)}
    assert ending(model, rendered([[5, 6, 7]]), renderer.end, 100) == {}


# --- what is drawn ------------------------------------------------------------------------------------------------

def test_a_rows_and_a_turns_weight_multiply_the_loss(base):
    plain, heavy = row("a", "1", "Say it!", "so"), row("a", "2", "Say it!", "so")
    heavy = replace(heavy, weight=3.0)
    examples, counts = rendered_runs([plain, heavy, replace(plain, weight=0.0)], load_renderer(base), 96, where="here")
    assert [sum(e.weights) / sum(w > 0 for w in e.weights) for e in examples] == [1.0, 3.0]
    assert counts["dropped/no_assistant_turn"] == 1


@pytest.mark.parametrize(("policy", "kept", "cut"), [("drop", 1, 0), ("keep_start", 1, 0), ("keep_end", 2, 1)])
def test_what_is_too_long_is_cut_or_dropped_and_counted(base, policy, kept, cut):
    data = [row("a", "1", "Hi", "so"), row("a", "2", "word " * 60, "no")]
    examples, counts = rendered_runs(data, load_renderer(base), 60, where="here", truncation=policy)
    assert (len(examples), counts["truncated_examples"], counts["dropped_examples"]) == (kept, cut, 2 - kept)
    assert max(len(e.ids) for e in examples) <= 60


def test_one_that_may_not_be_cut_is_an_error_that_names_it(base):
    with pytest.raises(InputError, match="longer than 21") as error:
        rendered_runs([row("a", "the long one", "word " * 60, "no")], load_renderer(base), 20, where="x.jsonl",
                      truncation="error")
    assert error.value.where == "x.jsonl: the long one"


def test_other_splits_are_not_trained_on_unless_there_is_only_one():
    rows = [replace(r, split=s) for r, s in zip(dialogues(), ("train", "validation", "test", ""), strict=False)]
    training, validation = by_split(rows)
    assert [r.split for r in training] == ["train", ""] and [r.split for r in validation] == ["validation"]
    assert by_split(rows[2:3]) == (rows[2:3], [])


def test_a_mixture_with_held_out_tasks_counts_and_measures_each(base, chats, tmp_path):
    mixture = {"sources": {"chat": {"data": str(chats)}}, "temperature": 100.0}
    found = made(tmp_path / "out", base, mixture=mixture, held_out_tasks=["*/echo"], held_out_shots=[0, 1])
    assert set(found["drawn"]) == {"chat/colour", "chat/sum"} and sum(found["drawn"].values()) == 32
    assert abs(found["drawn"]["chat/colour"] - 16) <= 1
    assert {"heldout_0shot_loss", "heldout_1shot_loss"} <= found.keys()
    rows = [r for r in read_metrics(tmp_path / "out/metrics.jsonl") if "learning_rate" in r]
    assert all({"loss/chat/colour", "loss/chat/sum", "entropy", "mean_token_accuracy", "num_tokens",
                "supervised_tokens", "packing_efficiency"} <= r.keys() for r in rows)
    measured = [r for r in read_metrics(tmp_path / "out/metrics.jsonl") if "heldout_0shot_loss" in r]
    assert [r["step"] for r in measured] == [0, 2, 4]


# --- what learns --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("method", "gain"), [("full", 0.1), ("lora", 0.02), ("qlora", 0.02), ("ia3", 5e-4)])
def test_every_way_of_adapting_learns_and_is_exported_whole(base, chats, tmp_path, method, gain):
    found = made(tmp_path / "out", base, data=str(chats), validation=str(chats), steps=12,
                 adapt={"method": method, "rank": 4, "alpha": 8}, beside_base=2, beside_base_tokens=4, sample_every=6,
                 sample_prompts=["Say 7, and no more!"])
    rows = [r for r in read_metrics(tmp_path / "out/metrics.jsonl") if "val_loss" in r]
    assert rows[-1]["val_loss"] < rows[0]["val_loss"] - gain
    assert rows[-1]["val_perplexity"] == pytest.approx(math.exp(rows[-1]["val_loss"]))
    assert (found["trained_share"] == 1) == (method == "full") and 0 < found["turn_end_probability"] < 1
    tuned, renderer = load_model(tmp_path / "out"), load_renderer(tmp_path / "out")
    assert ending(tuned, rendered_runs(dialogues(), renderer, 96, where="here")[0], renderer.end, 1000)[
        "turn_end_probability"] == pytest.approx(found["turn_end_probability"], rel=2e-2)
    answers = json.loads((tmp_path / "out/answers.json").read_text())
    assert len(answers) == 2 and set(answers[0]["answers"]) == {"base", "tuned"}
    assert [r["step"] for r in read_metrics(tmp_path / "out/samples.jsonl")] == [6, 12]
    assert (tmp_path / "out/adapter/adapter_config.json").exists() == (method != "full")
    if method == "lora":
        again = load_adapter(load_model(base), tmp_path / "out/adapter")
        torch.testing.assert_close(logits(again, [5, 9, 11, 2]), logits(tuned, [5, 9, 11, 2]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["prefix", "adapter"])
def test_what_is_no_change_of_a_matrix_is_exported_as_an_adapter(base, chats, tmp_path, method):
    made(tmp_path / "out", base, data=str(chats), validation=str(chats), steps=16,
         adapt={"method": method, "prefix_tokens": 4}, sample_every=8, sample_prompts=("Why?",), beside_base=2)
    rows = [r for r in read_metrics(tmp_path / "out/metrics.jsonl") if "val_loss" in r]
    assert rows[-1]["val_loss"] < rows[0]["val_loss"] - 0.02
    assert not (tmp_path / "out/config.json").exists()
    again, renderer = load_model(tmp_path / "out"), load_renderer(tmp_path / "out")
    examples, _ = rendered_runs(dialogues(), renderer, 92, where="here")
    batches = micro_batches(examples, 1000)
    loss = sum(objective(again, batches[i])[1]["loss"] for i in range(len(batches))) / batches.count
    assert loss == pytest.approx(rows[-1]["val_loss"], rel=1e-4)
    answers = json.loads((tmp_path / "out/answers.json").read_text())
    assert answers and all({"base", "tuned"} == row["answers"].keys() for row in answers)
    made(tmp_path / "more", tmp_path / "out", data=str(chats), validation=str(chats), steps=16,
         adapt={"method": method})
    more = [r for r in read_metrics(tmp_path / "more/metrics.jsonl") if "val_loss" in r]
    assert more[0]["val_loss"] == pytest.approx(rows[-1]["val_loss"], rel=1e-4)
    assert more[-1]["val_loss"] < more[0]["val_loss"]
    assert load_adapter_config(tmp_path / "more")["base_model_name_or_path"] == str(base)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_stopped_and_gone_on_with_is_undisturbed_bit_for_bit(base, chats, tmp_path, monkeypatch, method):
    options = {"data": str(chats), "steps": 6, "adapt": {"method": method, "rank": 4, "dropout": 0.1},
               "micro_tokens": 200, "background": False}
    made(tmp_path / "whole", base, **options)
    with monkeypatch.context() as patch:
        def stopping(*given, **more):
            stream = packed(*given, **more)

            def batches(step):
                stop_signal.reason = "the test asks" if step >= 3 else None
                return stream(step)

            return batches

        patch.setattr(sft, "packed", stopping)
        with pytest.raises(Preempted):
            made(tmp_path / "stopped", base, **options)
    made(tmp_path / "stopped", base, **options)
    steps = [r["step"] for r in read_metrics(tmp_path / "stopped/metrics.jsonl") if "loss" in r]
    assert steps == [1, 2, 3, 4, 5, 6]
    assert (tmp_path / "whole/model.safetensors").read_bytes() == (tmp_path / "stopped/model.safetensors").read_bytes()


def test_retention_and_early_stopping_are_options_of_the_stage(base, chats, tmp_path):
    found = made(tmp_path / "out", base, data=str(chats), validation=str(chats), steps=8,
                 retention={"label_smoothing": 0.1, "kl": {"weight": 0.5}, "lm": {"weight": 0.5}},
                 early_stopping={"patience": 1, "metric": "val_loss", "min_delta": 100.0})
    rows = [r for r in read_metrics(tmp_path / "out/metrics.jsonl") if "learning_rate" in r]
    assert len(rows) == 2 and {"kl", "lm_loss", "loss"} <= rows[0].keys()
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-6) and found["best_step"] == 0


@pytest.mark.parametrize(("options", "what"), [
    ({}, "give data"), ({"data": "x", "mixture": {}}, "give data"),
    ({"data": "x", "adapt": {"method": "lora"}, "parallel": {"shard": 2}}, "not split"),
    ({"data": "x", "adapt": {"method": "lora"}, "retention": {"ewc": {"fisher": "y"}}}, "frozen anyway")])
def test_options_that_exclude_each_other_are_told_before_anything_is_read(base, tmp_path, options, what):
    with pytest.raises(ConfigError, match=what):
        made(tmp_path / "out", base, **options)


def test_training_on_the_last_turn_or_on_everything_changes_the_share(base, tmp_path):
    turns = [{"role": r, "content": f"{r} {i}"} for i in range(2) for r in ("user", "assistant")]
    write_jsonl(tmp_path / "rows.jsonl", [conversation_row(d) for d in dialogues()[:2]] + [{"messages": turns}] * 2)
    shares = [made(tmp_path / kind, base, data=str(tmp_path / "rows.jsonl"), steps=1, train_on=kind)["supervised_share"]
              for kind in ("last", "assistant", "all")]
    assert shares == sorted(shares) and shares[0] < shares[1] < shares[2] == 1.0


def test_what_may_be_called_is_told_by_a_models_own_template_and_steps_count_in_epochs(base, tmp_path):
    source = "{%- if tools %}{{ '<|im_start|>tools\\n' + (tools | tojson) + '<|im_end|>\\n' }}{% endif -%}"
    shutil.copytree(base, tmp_path / "base")
    template = tmp_path / "base/chat_template.jinja"
    template.write_text(source + template.read_text())
    calling = {"messages": [{"role": "user", "content": "1 and 2?"}, {"role": "assistant", "content": "add"}],
               "tools": [{"type": "function", "function": {"name": "add"}}]}
    write_jsonl(tmp_path / "rows.jsonl", [calling] * 6)
    made(tmp_path / "out", tmp_path / "base", data=str(tmp_path / "rows.jsonl"), examples=3)
    rows = [r for r in read_metrics(tmp_path / "out/metrics.jsonl") if "learning_rate" in r]
    assert [r["epoch"] for r in rows] == [0.5, 1.0, 1.5, 2.0]
    renderer = load_renderer(tmp_path / "out")
    (run, *_), _ = rendered_runs(conversations(str(tmp_path / "rows.jsonl"), Quarantine()), renderer, 90, where="here")
    assert '"name": "add"' in renderer.tokenizer.decode(list(run.ids))
    with pytest.raises(InputError, match="no place for tools"):
        made(tmp_path / "none", base, data=str(tmp_path / "rows.jsonl"))
