"""What a pretraining run reads: mixtures, packings, sizes of a step, files of other tools, splits, vocabularies."""

import json
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from bloomery.core.errors import InputError
from bloomery.core.metrics import read_metrics
from bloomery.data.shards import open_shard
from bloomery.model.store import load_model
from bloomery.pretrain import run as pretraining
from bloomery.pretrain import shards, vocabulary
from bloomery.pretrain.corpora import CorpusConfig

FAST = {"precision": "fp32", "validate_every": 1000, "save_every": 1000, "steps": 3}
SHAPE = pretraining.ModelOptions(depth=1, context=32, width=32, heads=2)


def made(module, folder: Path, **options) -> dict:
    folder.mkdir()
    return module.run(module.Config(**options), folder)


def texts(path: Path, word: str, documents: int) -> str:
    path.write_text("".join(json.dumps({"text": f"{word} {i}. " * (5 + i % 20)}) + "\n" for i in range(documents)))
    return str(path)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """Two domains under one tokenizer."""
    root = tmp_path_factory.mktemp("corpus")
    both = root / "both.jsonl"
    both.write_text("".join(Path(texts(root / f"{name}.jsonl", name, 60)).read_text() for name in ("web", "code")))
    made(vocabulary, root / "tokenizer", data=str(both), kind="characters")
    for name in ("web", "code"):
        made(shards, root / name, data=str(root / f"{name}.jsonl"), tokenizer=str(root / "tokenizer"), validation=0.2)
    return root


def pretrained(root: Path, folder: Path, **options) -> dict:
    given = {"data": str(root / "web"), "tokenizer": str(root / "tokenizer"), "model": SHAPE, "rows": 4}
    return made(pretraining, folder, **FAST | given | options)


def test_a_mixture_is_drawn_by_weight_and_measured_by_domain(corpus, tmp_path):
    found = pretrained(corpus, tmp_path / "out", data={"web": str(corpus / "web"), "code": str(corpus / "code")},
                       mixture={"web": 3, "code": 1})
    assert (found["samples/web"], found["samples/code"]) == (9, 3) and 0 < found["epochs/code"] < 1
    assert found["val_bpb"] == pytest.approx(0.75 * found["val_bpb/web"] + 0.25 * found["val_bpb/code"])
    first = read_metrics(tmp_path / "out" / "metrics.jsonl")[0]
    assert {"val_loss/web", "val_bpb/code", "val_loss"} <= set(first)


def test_no_domain_is_read_more_often_than_it_may_be(corpus, tmp_path, capsys):
    """UniMax: alike, until one domain has been read as often as it may."""
    data = {"web": str(corpus / "web"), "code": str(corpus / "code")}
    given = {"data": data, "mixture": {"web": 1000, "code": 1}}
    free, held = (pretrained(corpus, tmp_path / name, **given, max_epochs=most)
                  for name, most in (("free", None), ("held", 0.05)))
    assert free["samples/web"] == 12 and held["samples/web"] < 10
    assert held["epochs/web"] == pytest.approx(0.05, abs=free["epochs/web"] / 12)
    assert held["samples/web"] + held["samples/code"] == 12 and "planned" in capsys.readouterr().err


@pytest.mark.parametrize("packing", ["concatenated", "masked", "documents"])
def test_every_packing_trains(corpus, tmp_path, packing, capsys):
    found = pretrained(corpus, tmp_path / "out", packing=packing, context_warmup=0.5)
    losses = [row["loss"] for row in read_metrics(tmp_path / "out" / "metrics.jsonl") if "loss" in row]
    assert len(losses) == 3 and losses[2] < losses[0]
    assert found["tokens"] == 384 if packing != "documents" else 300 < found["tokens"] <= 384
    assert ("% full" in capsys.readouterr().err) == (packing == "documents")


@pytest.mark.parametrize(("tokens", "rows"), [(128, 4), (150, 5), (1, 1)])
def test_a_step_has_the_tokens_asked_for_to_the_nearest_row(corpus, tmp_path, tokens, rows):
    found = pretrained(corpus, tmp_path / "out", rows=None, batch_tokens=tokens, micro_rows=3)
    assert found["tokens"] == 3 * 32 * rows


@pytest.mark.parametrize(("options", "message"), [
    ({"rows": 4, "batch_tokens": 64}, "give one of them"),
    ({"mixture": {"web": 1}}, "domains of data are not named"),
    ({"cap": 100}, "share a run between domains"),
    ({"data": {"a": "x", "b": "y"}, "mixture": {"a": 1}}, "domains of data are a, b"),
    ({"data": {"a": "x"}, "mixture": {"a": 1}, "temperature": 2}, "shares by size"),
    ({"data": {"a": "x"}, "mixture": {"a": 0}}, "every weight of mixture is 0"),
])
def test_options_that_contradict_each_other_are_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        CorpusConfig(**{"data": "x", "steps": 1} | options)


def test_shards_of_ours_need_their_tokenizer(corpus, tmp_path):
    with pytest.raises(InputError, match="no tokenizer is given"):
        pretrained(corpus, tmp_path / "out", tokenizer=None)


def test_nanogpt_files_train_without_a_tokenizer(tmp_path):
    np.tile(np.arange(11, dtype=np.uint16), 60).tofile(tmp_path / "train.bin")
    np.arange(11, dtype=np.uint16).tofile(tmp_path / "val.bin")
    found = made(pretraining, tmp_path / "out", data=str(tmp_path), model=SHAPE, rows=4, **FAST)
    assert found["tokens"] == 384 and "val_loss" in found and "val_bpb" not in found
    assert load_model(tmp_path / "out").config.vocabulary == 11


def test_nanogpt_files_train_with_a_tokenizer_that_has_their_ids(corpus, tmp_path):
    size = open_shard(corpus / "web", "train").vocabulary
    for name in ("train", "val"):
        (1 + np.arange(400) % 8).astype(np.uint16).tofile(tmp_path / f"{name}.bin")
    pretrained(corpus, tmp_path / "out", data=str(tmp_path))
    assert load_model(tmp_path / "out").config.vocabulary == size
    assert (tmp_path / "out" / "tokenizer.json").is_file()


# --- shards -------------------------------------------------------------------------------------------------------

def read(folder: Path, split: str, tokenizer) -> str:
    shard = open_shard(folder, split)
    return "|".join(tokenizer.decode(shard.document(i)) for i in range(len(shard.ends)))


def test_the_end_of_a_lone_document_is_held_out(tmp_path):
    text = "".join(f"{i}, " for i in range(300))
    (tmp_path / "input.txt").write_text(text)
    source = str(tmp_path / "input.txt")
    found = made(vocabulary, tmp_path / "tokenizer", data=source, kind="characters")
    assert found["vocabulary"] == 4 + 12 and found["bytes_per_token"] == 1
    made(shards, tmp_path / "tokens", data=source, tokenizer=str(tmp_path / "tokenizer"), validation=0.1)
    tokenizer = vocabulary.characters([text])
    cut = int(len(text) * 0.9)
    assert read(tmp_path / "tokens", "train", tokenizer) == text[:cut]
    assert read(tmp_path / "tokens", "validation", tokenizer) == text[cut:]


def test_a_document_larger_than_the_sample_is_learned_from_all_the_same(tmp_path):
    (tmp_path / "input.txt").write_text("".join(f"{i} and " for i in range(2000)))
    found = made(vocabulary, tmp_path / "bpe", data=str(tmp_path / "input.txt"), vocabulary=300, sample_mb=1e-6)
    assert (found["documents"], found["vocabulary"]) == (1, 300)


def test_held_out_documents_can_be_given(tmp_path):
    for name, text in {"train": " a b \n a <unk> \n", "test": " b c \n"}.items():
        (tmp_path / f"wiki.{name}.tokens").write_text(text)
    source, held_out = (str(tmp_path / f"wiki.{name}.tokens") for name in ("train", "test"))
    found = made(vocabulary, tmp_path / "tokenizer", data=source, kind="words")
    assert found["vocabulary"] == 3 + 4                         # <unk>, line end, a, b
    found = made(shards, tmp_path / "tokens", data=source, tokenizer=str(tmp_path / "tokenizer"), validation=held_out)
    assert found["train_tokens"] == 7 and found["validation_tokens"] == 4
    tokenizer = vocabulary.words([" a b \n a <unk> \n"])
    assert read(tmp_path / "tokens", "validation", tokenizer) == " b <unk> \n"


def test_rows_that_are_no_documents_are_set_aside(tmp_path, corpus, capsys):
    texts(tmp_path / "rows.jsonl", "web", 30)
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write("{broken\n")
    found = made(shards, tmp_path / "out", data=str(tmp_path / "rows.jsonl"), tokenizer=str(corpus / "tokenizer"),
                 validation=0.3)
    assert found["train_documents"] + found["validation_documents"] == 30
    assert "rows.jsonl:31" in (tmp_path / "out" / "quarantine.jsonl").read_text()
    assert "1 rows" in capsys.readouterr().err
