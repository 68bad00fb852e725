"""Pairs are learned until held-out queries find their passages; judged collections; the folder says how it is read."""

import json
import os
import random
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch

from bloomery.classic.bm25 import build
from bloomery.core.errors import ConfigError, InputError
from bloomery.core.files import Quarantine
from bloomery.embedding import Embedder
from bloomery.finetune.embed import Config, contrastive, run, searching
from bloomery.finetune.judged import open_judged
from bloomery.finetune.pairs import Pair, group_of, lessons, pairs, stream_of
from bloomery.finetune.retrieval import by_vectors, figures, fused
from bloomery.model.store import load_model
from bloomery.model.vectors import pooling_in, save_pooling
from bloomery.text.tokenizer import load_tokenizer
from tests.finetune.task_data import model_folder, write_rows

DATA = Path(os.environ.get("BLOOMERY_DATA", Path(__file__).parents[3] / "shared" / "data"))
SAYS = {"good": "bad", "great": "awful", "fine": "poor", "film": "the", "story": "was", "cast": "which", "end": "is"}
ROUNDS = {"steps": 60, "examples": 32, "precision": "fp32", "validate_every": 60, "held_out": 0.2,
          "optimizer": {"lr": 5e-3}, "negatives": 0}


def translations() -> list[dict]:
    """A query and the same in other words: nothing is found by the words themselves."""
    chosen = [words for count in (2, 3, 4, 5) for words in combinations(SAYS, count)]
    random.Random(0).shuffle(chosen)
    return [{"anchor": " ".join(words), "positive": " ".join(SAYS[word] for word in words)} for words in chosen]


@pytest.fixture
def data(tmp_path):
    return str(write_rows(tmp_path / "pairs.jsonl", translations()))


@pytest.fixture
def out(tmp_path, handlers):
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@pytest.mark.parametrize(("kind", "pooling", "method"), [
    ("bert", "auto", "full"), ("modern", "first", "full"), ("decoder", "auto", "full"), ("decoder", "mean", "lora")])
def test_held_out_queries_find_their_passages(tmp_path, out, data, kind, pooling, method):
    folder = model_folder(tmp_path / kind, kind)
    found = run(Config(model=str(folder), data=data, pooling=pooling, adapt={"method": method}, **ROUNDS), out)
    before = json.loads((out / "metrics.jsonl").read_text().splitlines()[0])
    assert found["searched"] == 112 and found["bm25_mrr"] == 0
    assert found["dense_mrr"] > 0.4 and found["dense_mrr"] > 2 * before["val_mrr"]
    assert found["dense_mrr"] == found["val_mrr"] and found["hybrid_recall_100"] == found["dense_recall_100"]
    lines = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert len(lines) == found["held_out_queries"] and lines[0]["dense_place"] >= lines[-1]["dense_place"] == 1
    assert pooling_in(out) == found["pooling"] == ({"decoder": "last"}.get(kind, "mean") if pooling == "auto" else
                                                   pooling)
    embed = Embedder(str(out))                                  # reads texts as the stage did
    queries, texts = (embed([row[side] for row in translations()]) for side in ("anchor", "positive"))
    assert embed.pooling == found["pooling"]
    assert figures(by_vectors(queries, texts), [{place: 1.0} for place in range(len(texts))])["mrr"] > 0.4


def test_vectors_are_those_of_transformers(tmp_path, out, data):
    """As sentence-transformers has them: the states of `AutoModel`, pooled as the folder says, of length 1."""
    from transformers import AutoModel, AutoTokenizer

    run(Config(model=str(model_folder(tmp_path / "bert", "bert")), data=data, **ROUNDS | {"steps": 2}), out)
    theirs, words = AutoModel.from_pretrained(out).eval(), AutoTokenizer.from_pretrained(out)
    modules = json.loads((out / "modules.json").read_text())
    assert [module["type"].rpartition(".")[2] for module in modules] == ["Transformer", "Pooling", "Normalize"]
    assert json.loads((out / "1_Pooling" / "config.json").read_text())["pooling_mode_mean_tokens"] is True
    with torch.no_grad():
        states = theirs(**words("the film was good", return_tensors="pt")).last_hidden_state[0].mean(0)
    np.testing.assert_allclose(Embedder(str(out))(["the film was good"])[0], states / states.norm(), atol=1e-5)


def test_a_group_is_one_forest_in_which_what_is_right_is_no_negative(tmp_path):
    folder = model_folder(tmp_path / "bert", "bert")
    tokenizer, model = load_tokenizer(folder), load_model(folder)
    found = [Pair("good", "bad"), Pair("good", "awful"), Pair("fine", "poor", ("bad",))]
    own = lessons(found, tokenizer.encode, build, among=0)
    batch = group_of(own, [0, 1, 2], [[], [], own.hard[2]], causal=False)
    assert len(batch.segments.start) - 1 == 6                   # "good" is asked twice, "bad" stands there once
    assert batch.known.tolist() == [[True, True, False]] * 2 + [[False, False, True]] and batch.count == 3
    loss, told = contrastive(model, batch, pooling="mean", temperature=0.1, symmetric=False)
    both, _ = contrastive(model, batch, pooling="mean", temperature=0.1, symmetric=True)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(told["loss"]) != float(both.detach())
    assert model.embedding.weight.grad.abs().sum() > 0


def test_hard_negatives_share_words_and_answer_nothing():
    found = [Pair("red boat", "a red boat at sea"), Pair("red boat", "the red boat"), Pair("iron", "red iron ore"),
             Pair("green", "green hills")]
    own = lessons(found, lambda text: [len(text)], build, among=5)
    assert own.hard[0] == own.hard[1] == [own.pairs[2][1]] and own.hard[3] == []
    batches, again = (stream_of(own, size=2, groups=2, negatives=1, seed=0, causal=True)(0) for _ in range(2))
    assert len(batches) == 2 and all(torch.equal(a.ids, b.ids) for a, b in zip(batches, again, strict=True))


def test_figures_are_means_over_queries():
    relevant = [{0: 1.0}, {1: 1.0, 2: 1.0}]
    vectors = np.eye(4, dtype=np.float32)
    rankings = by_vectors(vectors[[0, 3]], vectors)
    assert rankings[0][0] == 0 and rankings[1] == [3, 0, 1, 2]
    told = figures(rankings, relevant)
    assert told["mrr"] == pytest.approx((1 + 1 / 3) / 2) and told["recall_1"] == 0.5 and told["recall_10"] == 1
    assert fused([[0, 1]], [[1, 0]]) == [[0, 1]]


def test_a_search_has_every_query_once_and_no_more_texts_than_asked_for():
    held = [Pair("q", "a"), Pair("q", "b"), Pair("r", "a")]
    search = searching(held, ["a", "c", "d"], 3)
    assert search.questions == ["q", "r"] and search.texts[:2] == ["a", "b"] and len(search.texts) == 3
    assert search.relevant == [{0: 1.0, 1: 1.0}, {0: 1.0}]


def beir(folder):
    folder.mkdir()
    write_rows(folder / "corpus.jsonl", [{"_id": "d1", "title": "boats", "text": "A red boat. It is at sea."},
                                         {"_id": "d2", "title": "", "text": "iron"}])
    write_rows(folder / "queries.jsonl", [{"_id": "q1", "text": "where is it"}, {"_id": "q2", "text": "unjudged"}])
    (folder / "qrels").mkdir()
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t0\n")
    return folder


def test_judged_collections_are_read_and_give_pairs_without_their_questions(tmp_path):
    found = open_judged(str(beir(tmp_path / "beir")), Quarantine())
    assert found.texts == ["boats A red boat. It is at sea.", "iron"]
    assert found.questions == ["where is it"] and found.relevant == [{0: 2.0}]
    made = pairs(str(tmp_path / "beir"), Quarantine())
    assert made == [Pair("boats", "A red boat. It is at sea."), Pair("A red boat.", "It is at sea."),
                    Pair("It is at sea.", "A red boat.")]
    smart = tmp_path / "smart"
    smart.mkdir()
    (smart / "x.all").write_text(".I 1\n.T\nboats\n.W\nboats\na red\nboat\n.I 2\n.T\nore\n.W\niron\n")
    (smart / "x.qry").write_text(".I 001\n.W\nwhere\n")
    (smart / "xqrel").write_text("1 2 3\n1 1 -1\n")
    found = open_judged(str(smart), Quarantine())
    assert found.bodies == ["boats a red boat", "iron"] and found.relevant == [{1: 1.0}]
    (smart / "xqrel").write_text("7 2 3\n")
    with pytest.raises(InputError, match="nothing is judged"):
        open_judged(str(smart), Quarantine())


@pytest.mark.skipif(not (DATA / "cranfield").is_dir(), reason=f"no cranfield in {DATA}: set BLOOMERY_DATA")
def test_cranfield_has_its_questions():
    found = open_judged(str(DATA / "cranfield"), Quarantine())
    assert (len(found.texts), len(found.questions), sum(map(len, found.relevant))) == (1400, 225, 1612)


def test_what_cannot_be_is_said_before_any_work(tmp_path, out, data):
    decoder = str(model_folder(tmp_path / "decoder", "decoder"))
    with pytest.raises(ConfigError, match="first token"):
        run(Config(model=decoder, data=data, pooling="first", **ROUNDS), out)
    with pytest.raises(ConfigError, match="adapt.method"):
        run(Config(model=decoder, data=data, adapt={"method": "prefix"}, **ROUNDS), out)
    with pytest.raises(InputError, match="no row can be used") as error:
        run(Config(model=decoder, data=str(write_rows(tmp_path / "odd.jsonl", [{"x": "y"}])), **ROUNDS), out)
    assert "columns.THEIRS=query" in error.value.hint


def test_a_way_of_pooling_that_is_not_known_is_named(tmp_path):
    save_pooling(tmp_path, "mean", width=8, context=16)
    assert pooling_in(tmp_path) == "mean" and pooling_in(tmp_path / "nowhere") is None
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_max_tokens": True}))
    with pytest.raises(InputError, match="not known here"):
        pooling_in(tmp_path)
