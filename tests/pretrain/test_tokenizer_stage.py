"""The tokenizer stage: kinds, reserved and padding tokens, and what a token holds by domain and language."""

import json

import pyarrow as pa
import pytest
from pyarrow import parquet

from bloomery.pretrain import vocabulary
from bloomery.pretrain.fertility import fertility, groups
from bloomery.text.bpe import bpe
from bloomery.text.tokenizer import SMALLEST, load_tokenizer

WORDS = {"en": "the river runs to the sea", "de": "der Fluss fließt zum Meer"}


@pytest.fixture
def corpora(tmp_path):
    """A file of documents, and a curated folder that knows its languages."""
    rows = [json.dumps({"text": f"{WORDS['en']} {i} times"}) for i in range(80)]
    (tmp_path / "web.jsonl").write_text("\n".join(rows))
    (tmp_path / "docs").mkdir()
    rows = [{"id": f"{lang}{i}", "text": f"{text} {i}", "source": "x", "language": lang}
            for lang, text in WORDS.items() for i in range(40)]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "docs" / "documents.parquet")
    return tmp_path


@pytest.mark.parametrize("options", [{}, {"trainer": "counts"}, {"kind": "unigram"}, {"sample_mb": None}])
def test_kinds_train_and_tell(corpora, options):
    out = corpora / "out"
    out.mkdir()
    data = {"web": str(corpora / "web.jsonl"), "docs": str(corpora / "docs")}
    config = vocabulary.Config(data=data, vocabulary=SMALLEST + 6, reserved=("<|tool|>",), multiple=64, **options)
    found = vocabulary.run(config, out)
    tokenizer = load_tokenizer(out)
    assert found["vocabulary"] == tokenizer.size == 320 and found["documents"] == 160
    assert tokenizer.token("<|tool|>") < 10 and tokenizer.token("<|reserved_0|>") == SMALLEST + 6
    assert tokenizer.decode(tokenizer.encode("the <|reserved_0|> sea")) == "the <|reserved_0|> sea"
    told = json.loads((out / "fertility.json").read_text())
    assert list(told) == ["domain docs", "domain web", "language de", "language en"]
    assert told["language en"]["documents"] == 40 and told["domain web"]["bytes_per_token"] > 1
    assert vocabulary.forecast(config) == {"vocabulary": 320}


def test_a_sample_is_a_share_of_the_documents(corpora):
    out = corpora / "out"
    out.mkdir()
    config = vocabulary.Config(data=str(corpora / "web.jsonl"), vocabulary=SMALLEST, sample_mb=0.001)
    found = vocabulary.run(config, out)
    assert 5 < found["documents"] < 60 and json.loads((out / "fertility.json").read_text()) == {}


def test_fertility_by_hand():
    tokenizer = bpe(["ab ab ab ab"], vocabulary=SMALLEST + 2)                      # merges (a, b), then ( , ab)
    found = fertility(tokenizer, ["ab ab", "xy ab"])
    assert found["tokens_per_word"] == (1 + 1 + 3 + 1) / 4 and found["words_of_one_token"] == 0.75
    assert found["bytes_per_token"] == 10 / (2 + 3) and found["known"] == 1 and found["documents"] == 2
    assert fertility(tokenizer, [])["tokens_per_word"] == 0


def test_groups_are_small_and_the_same_each_time(corpora):
    first = groups({"web": str(corpora / "web.jsonl")}, corpora)
    assert list(first) == ["domain web"] and len(first["domain web"]) == 80
    assert groups({"web": str(corpora / "web.jsonl")}, corpora) == first
