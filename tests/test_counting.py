"""`bloomery text ngram | spell | pmi`: what a person types, what comes out, and errors that teach."""

import io
import json
import sys

import pytest

from bloomery.classic.ngram import Ngram
from bloomery.classic.smoothing import modified_kneser_ney
from bloomery.cli import main
from bloomery.core.errors import ConfigError, InputError
from bloomery.counting import fit, opened
from bloomery.text.templates import TEMPLATES
from bloomery.text.tokenizer import train_tokenizer

LINES = ["the cat sat on the mat", "the dog sat on the mat", "a cat and a dog sat", "the cat", "on the mat the cat sat",
         "a dog on a mat", "the log and the dog", "a cat sat", "the mat", "dogs"] * 2


@pytest.fixture
def source(tmp_path):
    (tmp_path / "train.txt").write_text("\n".join(LINES) + "\n", encoding="utf-8")
    return str(tmp_path / "train.txt")


@pytest.fixture
def ask(capsys):
    """The exit code, the JSON or the text of standard output, and standard error."""
    def asked(*arguments: str) -> tuple[int, object, str]:
        code = main(["text", *arguments])
        done = capsys.readouterr()
        return code, json.loads(done.out) if "--json" in arguments and done.out else done.out, done.err
    return asked


def test_a_model_is_counted_scored_sampled_and_written(source, tmp_path, ask):
    arpa = str(tmp_path / "model.arpa")
    code, found, _ = ask("ngram", source, "--test", source, "--order", "3", "--arpa", arpa, "--sample", "2",
                         "--history", "the cat", "--json")
    assert code == 0 and found["order"] == 3 and found["vocabulary"] == 13
    assert found["test"]["symbols"] == sum(len(line.split()) + 1 for line in LINES)
    assert found["test"]["perplexity"] == pytest.approx(2 ** found["test"]["bits"])
    assert all(text.startswith("the cat") for text in found["samples"])
    _, again, _ = ask("ngram", arpa, "--test", source, "--json")
    assert again["grams"][1:] == found["grams"][1:]
    assert again["test"]["perplexity"] == pytest.approx(found["test"]["perplexity"], rel=1e-5)


def test_lines_for_people_say_the_same(source, ask):
    code, shown, _ = ask("ngram", source, "--test", source, "--order", "2", "--smoothing", "mle")
    assert code == 0 and "perplexity" in shown and "0 unknown" in shown
    _, shown, _ = ask("ngram", source, "--test", source, "-n", "2", "--smoothing", "witten_bell", "--prune", "0.01")
    assert "perplexity" in shown


def test_what_is_impossible_is_null_in_json(source, tmp_path, ask):
    (tmp_path / "test.txt").write_text("zebras\n", encoding="utf-8")
    _, found, _ = ask("ngram", source, "--test", str(tmp_path / "test.txt"), "--smoothing", "mle", "--json")
    assert found["test"]["perplexity"] is None and found["test"]["unknown"] == 1
    _, shown, _ = ask("ngram", source, "--test", str(tmp_path / "test.txt"), "--smoothing", "mle")
    assert "perplexity infinite" in shown


def test_bytes_and_tokens(source, tmp_path, ask):
    text = "\n".join(LINES) + "\n"
    _, found, _ = ask("ngram", source, "--unit", "bytes", "--test", source, "--order", "3", "--json")
    assert found["vocabulary"] == 256 and found["test"]["symbols"] == len(text)
    assert found["test"]["bits_per_byte"] == pytest.approx(found["test"]["bits"])
    alone = Ngram(3, 256, smoothing=modified_kneser_ney()).fit([text.encode()]).score([text.encode()])
    assert found["test"]["nats"] == pytest.approx(alone.nats_per_symbol)
    tokenizer = train_tokenizer(LINES, vocabulary=300)
    tokenizer.save(tmp_path / "tokens", context=16, chat_template=TEMPLATES["chatml"].jinja())
    _, found, _ = ask("ngram", source, "--unit", "tokens", "--tokenizer", str(tmp_path / "tokens"), "--test", source,
                      "--sample", "1", "--arpa", str(tmp_path / "tokens.arpa"), "--json")
    assert found["test"]["symbols"] == len(tokenizer.encode(text)) and isinstance(found["samples"][0], str)


def test_held_out_texts_teach_the_weights(source, ask):
    interpolated = ("ngram", source, "--smoothing", "interpolated", "--test", source, "--json")
    _, taught, said = ask(*interpolated, "--held-out", source)
    _, plain, _ = ask(*interpolated)
    assert "weights of the orders" in said and taught["test"]["nats"] < plain["test"]["nats"]


@pytest.mark.parametrize(("options", "what"), [
    (("--smoothing", "knser_ney"), "did you mean kneser_ney"), (("--unit", "letters"), "cannot be counted"),
    (("--smoothing", "add_k", "--k", "-1"), "must be above 0"),
    (("--unit", "tokens"), "tokens need a tokenizer"), (("--smoothing", "mle", "--prune", "0.1"), "never backs off")])
def test_options_that_cannot_be_are_explained(source, ask, options, what):
    code, _, said = ask("ngram", source, *options)
    assert code == ConfigError.exit_code and what in said


def test_a_model_of_bytes_is_not_taken_for_one_of_words(tmp_path):
    fit(LINES, order=2, unit="bytes").save(tmp_path / "bytes.arpa")
    with pytest.raises(InputError, match="a model of bytes"):
        opened(tmp_path / "bytes.arpa")


def test_spelling_is_corrected_in_place_or_listed(tmp_path, ask, monkeypatch):
    (tmp_path / "right.txt").write_text("the government received a letter of thanks\n" * 3, encoding="utf-8")
    right = ("--words", str(tmp_path / "right.txt"))
    typed = "Teh goverment\nrecieved a leter of xqxqxqxq."
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    code, shown, said = ask("spell", "-", *right)
    assert code == 0 and shown == "The government\nreceived a letter of xqxqxqxq.\n"
    assert "4 corrected, 1 unknown words left" in said
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    _, shown, _ = ask("spell", "-", *right, "--list", "--no-context")
    assert "0:2: recieved -> received" in shown and "0:2: xqxqxqxq -> ?" in shown
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    _, found, _ = ask("spell", "-", *right, "--json")
    assert [one["word"] for one in found["texts"][0]["corrections"]] == ["The", "government", "received", "letter", ""]


def test_errors_are_learned_from_misspellings(tmp_path, ask, monkeypatch):
    (tmp_path / "right.txt").write_text("a cat, a cart\n", encoding="utf-8")
    for lesson, wanted in (("abcd: abd", "cart"), ("abcd: abxd", "cat")):           # letters left out, letters replaced
        (tmp_path / "pairs.txt").write_text(f"{lesson}\n" * 30, encoding="utf-8")
        monkeypatch.setattr(sys, "stdin", io.StringIO("crt"))
        code, shown, _ = ask("spell", "-", "--words", str(tmp_path / "right.txt"), "--no-context",
                             "--pairs", str(tmp_path / "pairs.txt"))
        assert code == 0 and shown.strip() == wanted
    (tmp_path / "none.txt").write_text("nothing here\n", encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", io.StringIO("ct"))
    code, _, said = ask("spell", "-", "--pairs", str(tmp_path / "none.txt"))
    assert code == 1 and "no misspellings here" in said and "begining" in said


def test_without_words_those_of_python_and_of_the_text_itself_are_right(ask, monkeypatch):
    monkeypatch.setattr("bloomery.data.stdlib.topics", lambda: [("topic", "return the value of the function\n" * 3)])
    monkeypatch.setattr("bloomery.data.stdlib.module_sources", lambda quarantine: [])
    monkeypatch.setattr("bloomery.data.stdlib.runtime_docs", lambda: [])
    monkeypatch.setattr(sys, "stdin", io.StringIO("retrun the bloomery bloomery bloomery"))
    _, shown, said = ask("spell", "-")
    assert shown == "return the bloomery bloomery bloomery\n" and "--words FILE" in said


def test_collocations(tmp_path, ask):
    text = "The New York cat sat. A New York dog ran.\n" * 5 + "A cat ran. The dog sat.\n" * 5
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    source = str(tmp_path / "text.txt")
    _, found, _ = ask("pmi", source, "--json", "-n", "1")
    assert found["collocations"][0]["words"] == ["new", "york"] and found["collocations"][0]["count"] == 10
    _, shown, _ = ask("pmi", source, "--triples", "--min-count", "2")
    assert "new york cat" in shown
    _, shown, _ = ask("pmi", source, "--min-count", "99")
    assert shown == "nothing comes together so often\n"
    code, _, said = ask("pmi", source, "--measure", "pmo")
    assert code == 2 and "did you mean pmi?" in said
    code, _, said = ask("pmi", source, "--triples", "--window", "4")
    assert code == 2 and "three neighbours" in said
