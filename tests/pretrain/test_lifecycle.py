"""A small corpus from its words to an aligned model: every stage in order, and what each of them refuses."""

import json
import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bloomery.align import preference
from bloomery.core.errors import ConfigError, InputError
from bloomery.core.metrics import read_metrics
from bloomery.core.records import text_id
from bloomery.data.shards import open_shard
from bloomery.decoding import ChatOptions
from bloomery.evaluate import run as evaluation
from bloomery.instruct import run as sft
from bloomery.pretrain import run as pretraining
from bloomery.pretrain import shards, vocabulary
from bloomery.speaker import Speaker

COLOURS = {"sky": "blue", "grass": "green", "snow": "white", "coal": "black", "blood": "red", "sun": "yellow"}
TEXTS = [f"The {thing} is {colour}. " * 3 + f"Nobody has {number} of them. The {thing} stays {colour} in {number}, "
         f"and in {number + 1} the {thing} is {colour} again, for {number} reasons or {number + 2}."
         for thing, colour in COLOURS.items() for number in range(30)]
FAST = {"precision": "fp32", "validate_every": 1000, "save_every": 1000}
SHAPE = pretraining.ModelOptions(depth=1, context=64, width=48, heads=3)


def question(thing: str) -> list[dict]:
    return [{"role": "user", "content": f"Which colour has the {thing}?"}]


def write_rows(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def write_corpus(folder: Path, texts: list[str]) -> str:
    folder.mkdir()
    pq.write_table(pa.table({"id": [text_id(t) for t in texts], "text": texts}), folder / "documents.parquet")
    return str(folder)


def made(module, folder: Path, **options) -> dict:
    folder.mkdir()
    return module.run(module.Config(**options), folder)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> tuple[Path, dict[str, dict]]:
    """Every stage once, and what each of them measured."""
    root = tmp_path_factory.mktemp("runs")
    corpus = write_corpus(root / "corpus", TEXTS)
    chats = [{"messages": question(thing) + [{"role": "assistant", "content": f"It is {colour}."}], "task": "colour",
              "id": thing} for thing, colour in COLOURS.items()]
    pairs = [{"prompt": question(thing), "chosen": f"It is {colour}.", "rejected": f"It is {wrong}.", "kind": "colour"}
             for thing, colour in COLOURS.items() for wrong in COLOURS.values() if wrong != colour]
    equal = {"prompt": question("sky"), "chosen": "It is blue.", "rejected": "It is blue."}
    instructions = write_rows(root / "chats.jsonl", chats)
    preferences = write_rows(root / "pairs.jsonl", [*pairs, equal])
    tokenizer, tokens, base, assistant, aligned = (str(root / name) for name in
                                                   ("tokenizer", "shards", "base", "sft", "dpo"))
    found = {
        "tokenizer": made(vocabulary, root / "tokenizer", data=corpus, vocabulary=320, context=64),
        "shards": made(shards, root / "shards", data=corpus, tokenizer=tokenizer, validation=0.1),
        "base": made(pretraining, root / "base", data=tokens, tokenizer=tokenizer, model=SHAPE, rows=8, steps=80,
                     optimizer={"lr": 1e-2}, **FAST),
        "sft": made(sft, root / "sft", model=base, data=instructions, validation=instructions, examples=6, steps=60,
                    optimizer={"lr": 5e-3}, **FAST),
        "dpo": made(preference, root / "dpo", model=assistant, data=preferences, validation=preferences, pairs=10,
                    steps=20, optimizer={"lr": 1e-3}, **FAST),
        "evaluate": made(evaluation, root / "evaluate", models={"base": base, "sft": assistant, "dpo": aligned},
                         shards=tokens, instructions=instructions, preferences=preferences,
                         prompts=instructions, closed_tasks=["colour"], precision="fp32"),
    }
    return root, found


def test_every_stage_leaves_what_others_open(runs):
    root, _ = runs
    for name in ("base", "sft", "dpo"):
        files = {path.name for path in (root / name).iterdir()}
        assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
                "chat_template.jinja", "metrics.jsonl", "checkpoints"} <= files, name
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert AutoModelForCausalLM.from_pretrained(root / "dpo").num_parameters() > 10_000
    assert len(AutoTokenizer.from_pretrained(root / "dpo")) == 320


def test_shards_hold_the_corpus_and_nothing_twice(runs):
    root, found = runs
    counts = found["shards"]
    assert counts["train_documents"] + counts["validation_documents"] == len(TEXTS)
    assert counts["train_bytes"] + counts["validation_bytes"] == sum(len(t.encode()) for t in TEXTS)
    assert counts["validation_documents"] > 5
    assert len(open_shard(root / "shards", "train").tokens) == counts["train_tokens"]
    assert found["tokenizer"]["vocabulary"] == 320 and found["tokenizer"]["bytes_per_token"] > 2


def test_losses_fall(runs):
    root, found = runs
    for name in ("base", "sft", "dpo"):
        losses = [row["loss"] for row in read_metrics(root / name / "metrics.jsonl") if "loss" in row]
        assert losses[-1] < 0.8 * losses[0], name
        assert all(math.isfinite(loss) for loss in losses)
    first = read_metrics(root / "base" / "metrics.jsonl")[0]
    assert first["step"] == 0 and first["val_loss"] == pytest.approx(math.log(320), abs=0.2)
    assert found["base"]["val_bpb"] < 0.8 and found["sft"]["val_loss"] < 0.5


def test_dpo_starts_at_ln_2_and_learns_what_is_preferred(runs):
    root, found = runs
    rows = [row for row in read_metrics(root / "dpo" / "metrics.jsonl") if "loss" in row]
    assert rows[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert rows[-1]["rewards/margins"] > 0 and found["dpo"]["val_preference_accuracy"] > 0.9


def test_equal_answers_are_quarantined_not_learned_from(runs):
    root, found = runs
    assert found["dpo"]["pairs"] == 30 and found["dpo"]["quarantined"] >= 1
    lines = (root / "dpo" / "quarantine.jsonl").read_text().splitlines()
    assert any("equal answers" in line and "pairs.jsonl:31" in line for line in lines)


def test_evaluation_sets_models_side_by_side(runs):
    root, found = runs
    scores = found["evaluate"]
    assert scores["base.val_bpb"] == pytest.approx(found["base"]["val_bpb"], rel=1e-6)
    assert scores["base.val_bpb"] < scores["base.xz_bpb"] and scores["base.ngram5_bpb"] < scores["base.xz_bpb"]
    assert scores["sft.answer_nll"] < scores["sft.answer_nll_base"] == scores["base.answer_nll"]
    assert scores["sft.exact_match"] == 1.0 and scores["sft.exact_match_base"] == 0.0
    assert scores["dpo.preference_accuracy"] == 1.0 and scores["dpo.preference_pairs"] == 30
    answers = json.loads((root / "evaluate" / "answers.json").read_text())
    assert len(answers) == 6 and all(set(row["answers"]) == {"base", "sft", "dpo"} for row in answers)
    assert all(row["answers"]["sft"] == row["expected"] for row in answers)


def test_the_result_chats(runs):
    root, _ = runs
    messages = sft.conversations(str(root / "chats.jsonl"), sft.Quarantine())[0].messages[:1]
    assert "".join(Speaker(root / "dpo").reply(messages, ChatOptions(max_tokens=20))) == "It is blue."


def test_the_same_stage_again_writes_the_same_bytes(runs, tmp_path):
    root, found = runs
    again = {
        "tokenizer": made(vocabulary, tmp_path / "tokenizer", data=str(root / "corpus"), vocabulary=320, context=64),
        "shards": made(shards, tmp_path / "shards", data=str(root / "corpus"), tokenizer=str(root / "tokenizer"),
                       validation=0.1)}
    for name, metrics in again.items():
        assert metrics == found[name]
        for path in (tmp_path / name).iterdir():
            assert path.read_bytes() == (root / name / path.name).read_bytes(), path


def test_a_vocabulary_the_data_cannot_fill_is_refused(tmp_path):
    corpus = write_corpus(tmp_path / "corpus", ["a b", "a c"])
    with pytest.raises(InputError, match="larger than the data supports") as caught:
        made(vocabulary, tmp_path / "out", data=corpus, vocabulary=2000)
    assert "set vocabulary = " in caught.value.hint


@pytest.mark.parametrize(("options", "message"), [
    ({"model": SHAPE.model_copy(update={"context": 200}), "rows": 1}, "context is longer than any document"),
    ({"model": SHAPE, "rows": 10_000}, "corpus is smaller than one step"),
])
def test_a_context_or_a_step_the_corpus_cannot_fill_is_refused(runs, tmp_path, options, message):
    root, _ = runs
    with pytest.raises(InputError, match=message):
        made(pretraining, tmp_path / "out", data=str(root / "shards"), tokenizer=str(root / "tokenizer"), steps=1,
             **options)


def test_shapes_that_cannot_be_are_a_configuration_error(runs, tmp_path):
    root, _ = runs
    with pytest.raises(ConfigError, match="shape is not consistent"):
        made(pretraining, tmp_path / "out", data=str(root / "shards"), tokenizer=str(root / "tokenizer"), steps=1,
             rows=1, model=SHAPE.model_copy(update={"heads": 4, "kv_heads": 3}))


def test_another_tokenizer_than_the_shards_is_refused(runs, tmp_path):
    root, _ = runs
    made(vocabulary, tmp_path / "other", data=str(root / "corpus"), vocabulary=300)
    with pytest.raises(InputError, match="do not belong together"):
        made(pretraining, tmp_path / "out", data=str(root / "shards"), tokenizer=str(tmp_path / "other"), model=SHAPE,
             rows=1, steps=1)


@pytest.mark.parametrize(("rows", "reason"), [
    ([{"messages": question("sky")}], "assistant"),
    ([{"prompt": "Say much", "completion": "word " * 500}], "1 are longer than the context of 64 tokens"),
])
def test_conversations_in_which_nothing_is_trained_are_refused(runs, tmp_path, rows, reason):
    root, _ = runs
    with pytest.raises(InputError) as caught:
        made(sft, tmp_path / "out", model=str(root / "base"), data=write_rows(tmp_path / "rows.jsonl", rows), steps=1)
    assert reason in str(caught.value) and not (tmp_path / "out" / "model.safetensors").exists()


def test_only_equal_answers_leave_no_pair(runs, tmp_path):
    root, _ = runs
    data = write_rows(tmp_path / "rows.jsonl", [{"prompt": "a", "chosen": "b", "rejected": "b"}])
    with pytest.raises(InputError) as caught:
        made(preference, tmp_path / "out", model=str(root / "sft"), data=data, steps=1)
    assert "equal answers" in str(caught.value)


def test_held_out_answers_that_never_fit_are_an_error_not_a_number(runs, tmp_path):
    root, _ = runs
    data = write_rows(tmp_path / "rows.jsonl", [{"prompt": "Say much", "completion": "word " * 500}])
    with pytest.raises(InputError, match="no question is left to ask"):
        made(evaluation, tmp_path / "out", models={"base": str(root / "base")}, instructions=data, precision="fp32")


def test_an_evaluation_needs_something_to_evaluate_on(runs, tmp_path):
    root, _ = runs
    with pytest.raises(ConfigError, match="nothing to evaluate on"):
        made(evaluation, tmp_path / "out", models={"base": str(root / "base")})
