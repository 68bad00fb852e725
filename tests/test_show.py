"""`bloomery show`: what is in a run's folder, a stage's, a model's, a data file."""

import json
import re
import shutil
from pathlib import Path

import pytest
from miniature import small_run, write_rows
from rich.console import Console
from safetensors.torch import load_file

from bloomery import cli, lessons
from bloomery.core.records import Message, Preference
from bloomery.curate.offending import offending
from bloomery.data.batch import forest, sequence
from bloomery.documents import document
from bloomery.text.chat import Renderer
from bloomery.text.tokenizer import load_tokenizer


@pytest.fixture
def in_room(monkeypatch):
    monkeypatch.chdir(small_run().parents[1])
    return Path("runs/life")


@pytest.fixture
def shown(in_room, capfd):
    """`shown(stage or path, options)` is stdout; the current folder is the room of the run."""
    def call(what, *options, code=0):
        capfd.readouterr()
        path = next((found for found in in_room.iterdir() if found.name.startswith(f"{what}-")), Path(what))
        assert cli.main(["show", str(path), *map(str, options)]) == code
        out, err = capfd.readouterr()
        return err if code else out
    return call


def test_a_run_is_its_summary(shown, in_room):
    out = shown(in_room)
    assert [line.split()[0] for line in out.splitlines() if line.strip()][-2:] == ["all", "chat"]
    assert "val_bpb" in out and f"bloomery chat {next(in_room.glob('dpo-*'))}" in out
    assert json.loads(shown(in_room, "--json"))["stages"]["sft"]["metrics"]["examples"] == 9


def test_documents_and_why_others_were_dropped(shown):
    out = shown("curate", "-n", 2)
    assert "word_count" in out and "generated_marker" in out and "1.2%" in out and "kept 80 of 83" in out
    assert "dropped for word_count\ncorpus.jsonl:81\ntoo short" in out
    only = shown("curate", "--reason", "word_count")
    assert "too short" in only and "[bold]brief[/bold]" in only                     # markup untouched
    assert "do not edit" not in only and "kept" not in only.partition("dropped for")[2]
    assert shown("curate", "--reason", "gopher.word_count").partition("dropped for w")[2] == \
        only.partition("dropped for w")[2] and "dropped/" not in only
    assert "did you mean word_count?" in shown("curate", "--reason", "word_cuont", code=1)
    assert "--reason is for a curate output" in shown("sft", "--reason", "word_count", code=1)


def test_what_a_rule_counts_is_marked_in_a_line():
    out = Console(color_system=None, width=400)
    row = {"source": "a.jsonl:1", "text": "x " * 100 + "one\n12  34 two " + "y" * 300}
    with out.capture() as kept:
        out.print(document(row, offending("gopher.alphabetic_words", row["text"]), out))
    assert kept.get().startswith("a.jsonl:1\n... ") and "x one [[12]] [[34]] two yyy" in kept.get()
    assert kept.get().rstrip().endswith("yy ... (515 characters)")


def test_token_shards_are_read_back(shown, in_room, tmp_path):
    out = shown("shards", "-n", 1)
    assert re.search(r"train +\d+ +[\d.k]+ +\d\.\d\d", out) and "more tokens)" in out and "|" in out
    text = out.partition("\nvalidation\n")[2].partition(" ...")[0].replace("|", "").replace("\n", "")
    assert len(text) > 40 and " the " in text
    shutil.copytree(next(in_room.glob("shards-*")), tmp_path / "alone")
    alone = shown(tmp_path / "alone", "-n", 1)
    assert "--tokenizer FOLDER shows the ids as text" in alone and re.search(r"\n\d+( \d+)+", alone)
    with_one = shown(tmp_path / "alone", "-n", 1, "--tokenizer", next(in_room.glob("tokenizer-*")))
    assert with_one.partition("train\n")[2] == out.partition("train\n")[2]


def test_an_unfinished_curation_can_be_looked_at(shown, in_room, tmp_path):
    shutil.copytree(next(in_room.glob("curate-*")), tmp_path / "half")
    (tmp_path / "half" / "DONE").unlink()
    out = shown(tmp_path / "half")
    assert "dropped for word_count" in out and "bloomery curate" not in out


def test_a_batch_as_training_sees_it(shown, in_room):
    out = shown("sft", "-n", 2)
    head = next(line for line in out.splitlines() if line.startswith("step 1, micro-batch 1 of 1"))
    assert "6 conversations end to end" in head and "[[trained]]  the assistant's words and the turn-end" in out
    assert out.count("<|im_start|>user") == 2 and "... and 4 more conversations in this batch" in out
    tokenizer = load_tokenizer(next(in_room.glob("sft-*")))
    for line in (line for line in out.splitlines() if line.startswith("[[It is")):
        assert line.endswith(".<|im_end|>]]")
        assert tokenizer.encode(line[2:-12])
    assert out.count("[[It is") == 2
    trained, tokens = int(head.split()[-3]), int(head.split()[-5])
    assert head.endswith(f"({trained / tokens:.0%})") and 0 < trained < tokens
    file = shown("chat.jsonl", "--tokenizer", next(in_room.glob("tokenizer-*")), "-n", 1)
    assert "9 conversations end to end" in file and file.count("[[It is") == 1


def test_a_batch_in_another_template(shown, in_room):
    tokenizer = next(in_room.glob("tokenizer-*"))
    out = shown("chat.jsonl", "--tokenizer", tokenizer, "--template", "alpaca", "-n", 1)
    assert "### Response:" in out and ".<|endoftext|>]]" in out and "<|im_end|>" not in out
    assert "needs the control token [INST]" in shown("chat.jsonl", "--tokenizer", tokenizer, "--template", "mistral",
                                                     code=1)


def test_what_is_drawn_is_what_is_in_the_batch(in_room):
    renderer = Renderer(load_tokenizer(next(in_room.glob("sft-*"))))
    said = [(Message("user", f"question {n}"), Message("assistant", "yes " * n)) for n in (1, 3)]
    rendered = [renderer.conversation(turns) for turns in said]
    batch = forest([sequence(one.ids, one.trained) for one in rendered])
    assert lessons.unpacked(batch) == [(one.ids, one.trained) for one in rendered]


def test_colour_in_place_of_brackets(in_room):
    renderer = Renderer(load_tokenizer(next(in_room.glob("sft-*"))))
    one = renderer.conversation((Message("user", "hi"), Message("assistant", "ho")))
    out = Console(force_terminal=True, color_system="standard", width=80, no_color=False)
    with out.capture() as kept:
        out.print(lessons.drawn(one.ids, one.trained, renderer, out))
    assert "\x1b[1;32mho<|im_end|>" in kept.get() and "[[" not in kept.get()


@pytest.mark.parametrize(("chosen", "rejected", "expected"), [
    ("It is 2 now.", "It is 3 now.", ("It is [[2]] now.", "It is [[3]] now.")),
    ("A b.", "Sure! A b.", ("A b.", "[[Sure! ]]A b.")), ("yes", "no", ("[[yes]]", "[[no]]")),
    ("a a a", "a a", ("a a[[ a]]", "a a")), ("x\n y", "x y", ("x[[\n ]]y", "x[[ ]]y")),
])
def test_where_two_answers_differ(chosen, rejected, expected):
    text = lessons.pair_text(Preference((Message("user", "?"),), chosen, rejected), Console(color_system=None)).plain
    assert text == f"user: ?\nchosen:   {expected[0]}\nrejected: {expected[1]}"


def test_pairs_with_their_tokens(shown, in_room):
    out = shown("dpo", "-n", 1)
    tokenizer = load_tokenizer(next(in_room.glob("dpo-*")))
    renderer = Renderer(tokenizer)
    prompt, chosen = renderer.prompt((Message("user", "What is 0 + 1?"),)), renderer.answer("It is 1 now.")
    rejected = renderer.answer("It is 0 now.")
    total = len(prompt) - 1 + len(chosen) + len(rejected)
    assert f"pair 0: {total} tokens: prompt {len(prompt)}, chosen {len(chosen)}, rejected {len(rejected)}" in out
    assert out.count("user: What is 0 + 1?") == 1 and "chosen:   It is [[1]] now." in out and "pair 1" not in out
    assert shown("pairs.jsonl", "--tokenizer", next(in_room.glob("base-*")), "-n", 1).strip() in out


def test_a_lesson_that_is_gone_is_said_to_be(shown, in_room, tmp_path):
    shutil.copytree(next(in_room.glob("sft-*")), tmp_path / "sft")
    out = shown(tmp_path / "sft")                                                   # its base does not lie beside it
    assert "what was trained on cannot be shown" in out and "is gone" in out


def test_a_model_is_its_shape(shown, in_room):
    out = shown("base")
    for row in (("blocks", "1 of width 64"), ("context", "128 tokens"), ("attention", "multi-head, 1 head of 64"),
                ("head", "the embedding itself (tied)"), ("chat template", "chatml"), ("tokenizer", "300 ids, BPE"),
                ("cache", "256 bytes a token in bf16, 32.8 kB at full context"), ("positions", "rotary, base 10k"),
                ("model.embed_tokens.weight", "1", "300 x 64", "F32"),
                ("model.layers.*.self_attn.q_proj.weight", "1", "64 x 64", "F32")):
        assert any(line.split() == " ".join(row).split() for line in out.splitlines()), row
    assert "<|endoftext|> 0, <|im_start|> 1, <|im_end|> 2" in out
    found = load_file(next(in_room.glob("base-*")) / "model.safetensors")
    assert f"LlamaForCausalLM, {sum(w.numel() for w in found.values()) / 1e3:.1f}k parameters" in out


def test_a_damaged_model_is_an_error(shown, in_room, tmp_path):
    shutil.copytree(next(in_room.glob("base-*")), tmp_path / "base")
    (tmp_path / "base" / "model.safetensors").write_bytes(b"no tensors")
    assert "a weight file cannot be read" in shown(tmp_path / "base", code=1)


def test_rows_of_every_kind(shown, tmp_path):
    rows = write_rows(tmp_path / "rows.jsonl", [
        {"prompt": "1+1?", "chosen": "2", "rejected": "11"}, {"text": "a document"},
        {"prompt": "hi", "completion": "ho"}, {"prompt": "hi", "completion": ""}])
    with open(rows, "a", encoding="utf-8") as file:
        file.write("{broken\n")
    out = shown(rows)
    for part in ("rejected: [[11]]", "a document", "assistant: ho", "--tokenizer FOLDER shows"):
        assert part in out
    flat = out.replace("\n", "")
    assert "rows.jsonl:4: not usable: empty answer" in flat and "rows.jsonl:5: set aside: invalid JSON" in flat


def test_ratings_and_problems(shown, tmp_path):
    out = shown(write_rows(tmp_path / "rows.jsonl", [
        {"instruction": "hi", "output": "go away", "kto_tag": False}, {"prompt": "1+1?", "solution": "2"}]))
    for part in ("assistant: go away", "not wanted", "1+1?", "answer  2"):
        assert part in out


def test_nothing_to_show(shown, tmp_path):
    assert "there is nothing to show" in shown(tmp_path / "nowhere", code=1)
    (tmp_path / "empty").mkdir()
    assert "nothing here that can be shown" in shown(tmp_path / "empty", code=1)
