"""`bloomery text search | keywords | summarise`: what a person types, what is kept on disk, and errors that teach."""

import io
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from bloomery.classic import postag
from bloomery.cli import main
from bloomery.core.errors import BloomeryError
from bloomery.embedding import Embedder
from bloomery.model.config import ModelConfig
from bloomery.model.store import save_model
from bloomery.model.transformer import Transformer
from bloomery.searching import Collection, collect, open_collection
from bloomery.text.templates import TEMPLATES
from bloomery.text.tokenizer import train_tokenizer

TEXTS = ["Iron ore is smelted in a bloomery furnace.", "", "Charcoal burns hot.\n\nA furnace needs charcoal and air.",
         "The cat sat on the mat.", "Cats like warm mats and warm furnaces. Naïve cats: 日本."]


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tokenizer = train_tokenizer(TEXTS * 3, vocabulary=300)
    tokenizer.save(folder, context=16, chat_template=TEMPLATES["chatml"].jinja())
    save_model(Transformer(ModelConfig(vocabulary=tokenizer.size, context=16, depth=1, width=16, heads=2)), folder)
    return folder


@pytest.fixture
def ask(capsys):
    """Run a command that succeeds; its JSON, or its lines."""
    def call(*arguments: str) -> object:
        assert main(["text", *arguments]) == 0, capsys.readouterr().err
        said = capsys.readouterr().out
        return json.loads(said) if "--json" in arguments else said.splitlines()
    return call


@pytest.fixture
def refused(capsys):
    """Run a command that fails; its exit code and what it says."""
    def call(*arguments: str) -> tuple[int, str]:
        code = main(["text", *arguments])
        assert code
        return code, capsys.readouterr().err
    return call


def places(result: dict, query: int = 0) -> list[int]:
    return [one["text"] for one in result["queries"][query]["found"]]


@pytest.mark.parametrize("by", ["bm25", "tfidf", "rrf"])
def test_texts_are_found_by_their_words(source, ask, by):
    found = ask("search", source, "furnaces", "a cat on a mat", "zebra", "--by", by, "--json")
    assert found["by"] == by and found["texts"] == 5
    assert sorted(places(found)) == [0, 2, 4] and places(found, 1)[0] == 3 and places(found, 2) == []
    assert found["queries"][0]["found"][places(found).index(2)]["excerpt"] == "A furnace needs charcoal and air."


def test_a_person_sees_scores_numbers_and_the_sentence_that_matters(source, ask):
    lines = ask("search", source, "charcoal air", "-n", "1")
    assert len(lines) == 1 and lines[0].split()[1:3] == ["text", "2"] and lines[0].endswith("charcoal and air.")
    assert ask("search", source, "zebra") == ["nothing found"]


def test_a_saved_index_needs_no_texts(source, ask, tmp_path):
    first = ask("search", source, "furnace", "--save", str(tmp_path / "index"), "--json")
    (tmp_path / "texts.jsonl").unlink()
    assert ask("search", str(tmp_path / "index"), "furnace", "--json") == first
    kept = open_collection(tmp_path / "index")
    assert list(kept.texts) == TEXTS and isinstance(kept.index.weights, np.memmap)


def test_queries_come_from_a_file_too(source, ask, tmp_path):
    (tmp_path / "q.jsonl").write_text('{"text": "charcoal"}\n{"text": "mat"}\n')
    found = ask("search", source, "iron", "--queries", str(tmp_path / "q.jsonl"), "--json")
    assert [result["query"] for result in found["queries"]] == ["iron", "charcoal", "mat"]


def test_parts_of_a_text_are_searched_through_a_pipe(ask, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("\n\n".join(TEXTS)))
    found = ask("search", "-", "charcoal", "--unit", "paragraph", "--json")
    assert found["texts"] == 5 and places(found) == [1, 2]


def test_plain_texts_keep_stop_words_and_plurals(source, ask):
    assert places(ask("search", source, "the", "--plain", "--json")) == [3]
    assert places(ask("search", source, "cats", "--plain", "--json")) == [4]
    assert places(ask("search", source, "the", "--json")) == []


def test_embeddings_find_a_text_by_itself(source, model, ask, tmp_path):
    kept = str(tmp_path / "index")
    found = ask("search", source, TEXTS[3], "--model", str(model), "--by", "embeddings", "--save", kept, "--json")
    assert places(found)[0] == 3 and found["queries"][0]["found"][0]["score"] == pytest.approx(1, abs=1e-5)
    both = ask("search", kept, "zebra", TEXTS[3], "--json")                     # hybrid, since there are embeddings
    assert both["by"] == "hybrid" and len(places(both)) == 5 and places(both, 1)[0] == 3
    words_alone = ask("search", kept, "charcoal", "--weight", "1", "--weight", "0", "--json")
    assert places(words_alone)[0] == 2


def test_a_text_longer_than_the_context_is_embedded_whole(model):
    embed = Embedder(str(model))
    long = " ".join(TEXTS)
    ids = embed.encode(long)
    assert len(ids) > 2 * embed.engine.context
    parts = [ids[at:at + embed.engine.context] for at in range(0, len(ids), embed.engine.context)]
    expected = sum(len(part) * embed.engine.embed([part])[0].numpy() for part in parts)
    found = embed([long, ""])
    np.testing.assert_allclose(found[0], expected / np.linalg.norm(expected), rtol=1e-5, atol=1e-6)
    assert not found[1].any()


def test_more_texts_than_a_group_keep_their_places(model):
    embed, many = Embedder(str(model)), [f"cat {number}" for number in range(70)]
    np.testing.assert_allclose(embed(many)[[0, 66]], embed([many[0], many[66]]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("arguments, code, what", [
    (("SOURCE",), 2, "nothing is asked"), (("SOURCE", "x", "--by", "magic"), 2, "one of bm25, tfidf"),
    (("SOURCE", "x", "--by", "hybrid"), 2, "--model"), (("SOURCE", "x", "--unit", "page"), 2, "one of text, paragraph"),
    (("SOURCE", "x", "--variant", "bm26"), 2, "variant must be one of lucene"),
    (("SOURCE", "x", "--b", "7"), 2, "b must lie between 0 and 1"),
    (("SOURCE", "x", "--weight", "1", "--weight", "2"), 2, "2 weights for 1 searches"),
    (("nowhere.jsonl", "x"), 1, "no such file")])
def test_errors_say_what_to_try(source, refused, arguments, code, what):
    found, said = refused("search", *(source if argument == "SOURCE" else argument for argument in arguments))
    assert found == code and what in said and "defect" not in said


def test_how_an_index_is_made_cannot_be_changed_later(source, ask, refused, tmp_path):
    ask("search", source, "x", "--save", str(tmp_path / "index"))
    code, said = refused("search", str(tmp_path / "index"), "x", "--k1", "2", "--plain")
    assert code == 2 and "--k1, --plain" in said and "--save" in said


def test_a_damaged_index_is_noticed(tmp_path):
    collect(TEXTS).save(tmp_path)
    with open(tmp_path / "texts.bin", "ab") as file:
        file.write(b"more")
    with pytest.raises(BloomeryError, match="damaged"):
        open_collection(tmp_path)
    collect(TEXTS[:2]).index.save(tmp_path / "bm25")
    (tmp_path / "texts.bin").write_bytes("".join(TEXTS).encode())
    with pytest.raises(BloomeryError, match="damaged"):
        open_collection(tmp_path)


def test_any_text_survives_the_disk(tmp_path):
    odd = ["", "\ud800 broken", "日本\n\x00", "end"]
    collect(odd).save(tmp_path)
    kept = open_collection(tmp_path)
    assert list(kept.texts) == ["", "? broken", "日本\n\x00", "end"] and isinstance(kept, Collection)
    with pytest.raises(IndexError):
        kept.texts[4]


def test_keywords_of_one_text_and_of_many(source, ask, tmp_path):
    found = ask("keywords", source, "-n", "2", "--json")
    assert [own["text"] for own in found["texts"]] == [0, 1, 2, 3, 4] and found["texts"][1]["keywords"] == []
    (tmp_path / "one.txt").write_text(TEXTS[2])
    assert ask("keywords", str(tmp_path / "one.txt"))[0].split()[1:] in (["charcoal"], ["furnace", "needs", "charcoal"])
    lines = ask("keywords", source, "-n", "1", "--by", "tfidf")
    assert lines[4] == "text 4: cats" and lines[2] == "text 2: charcoal"


def test_keywords_by_tfidf_need_other_texts(refused, tmp_path):
    (tmp_path / "one.txt").write_text(TEXTS[0])
    assert "--by textrank" in refused("keywords", str(tmp_path / "one.txt"), "--by", "tfidf")[1]
    assert "textrank or tfidf" in refused("keywords", str(tmp_path / "one.txt"), "--by", "magic")[1]


def test_a_summary_of_each_text(source, ask):
    found = ask("summarise", source, "-n", "1", "--json")
    assert [len(own["sentences"]) for own in found["texts"]] == [1, 0, 1, 1, 1]
    assert ask("summarise", source, "-n", "1")[0] == TEXTS[0]


def test_a_tagger_keeps_nouns_and_adjectives(ask, tmp_path):
    taught = [[("the", "DET"), ("hot", "ADJ"), ("furnace", "NOUN"), ("burns", "VERB"), ("charcoal", "NOUN")]] * 3
    postag.save(postag.TAGGERS["hmm"].train(taught), tmp_path / "tagger.json")
    (tmp_path / "one.txt").write_text("The hot furnace burns charcoal. Charcoal burns the hot furnace.")
    plain, kept = (ask("keywords", str(tmp_path / "one.txt"), *more) for more in
                   ((), ("--tagger", str(tmp_path / "tagger.json"))))
    assert any("burns" in line for line in plain) and not any("burns" in line for line in kept)


def test_the_worked_examples_are_what_is_printed(ask, tmp_path, monkeypatch):
    """Every command about search, keywords and summaries in `docs/text.md`, with what stands below it."""
    section = (Path(__file__).parents[1] / "docs" / "text.md").read_text(encoding="utf-8").partition("\n## Search\n")[2]
    monkeypatch.chdir(tmp_path)
    rows = [line for line in section.splitlines() if line.startswith('{"text"')]
    Path("ores.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    examples = re.findall(r"^\$ bloomery text ((?:search|keywords|summarise) .*)\n((?:(?![$`]).*\n)+)", section, re.M)
    assert len(examples) == 5
    for command, expected in examples:
        assert ask(*shlex.split(command)) == expected.rstrip("\n").splitlines(), command
