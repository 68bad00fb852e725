"""BLEU, ROUGE and word error rate: by hand, against the libraries that define them, and at their edges."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bloomery.classic.overlap import bleu, bleu_of, chrf, common, matches, porter, rouge, summed, word_error_rate

WORDS = st.lists(st.sampled_from(["the", "cat", "cats", "sat", "running", "on", "mat.", "A", "\n"]), max_size=12)
TEXT = WORDS.map(" ".join)
SETS = st.lists(st.tuples(TEXT, st.lists(TEXT, min_size=1, max_size=3)), min_size=1, max_size=4)


def test_bleu_by_hand():
    found = matches(["the", "the", "the", "the", "the", "the", "the"], [["the", "cat", "is", "on", "the", "mat"]])
    assert found.right[0] == 2 and found.total[0] == 7                      # Papineni et al. 2002, example 2
    assert matches(["a", "b", "c"], [["a"], ["a"] * 4, ["a"] * 2]).reference == 2       # as close as 4, and shorter
    assert matches(["a", "b"], [["a", "b", "c", "d"]]).brevity == pytest.approx(2.718281828 ** -1)
    same = matches(["a", "b", "c", "d", "e"], [["a", "b", "c", "d", "e"]])
    assert bleu_of(same) == pytest.approx(100) and bleu_of(matches([], [["a"]])) == 0


@given(SETS, st.sampled_from(["exp", "none", "floor", "add-k"]))
def test_the_equation_is_what_sacrebleu_computes(rows, smoothing):
    outputs, references = zip(*rows)
    counts = [matches(output.split(), [one.split() for one in own]) for output, own in rows]
    theirs, signature = bleu(outputs, references, tokenize="none", smoothing=smoothing)
    assert bleu_of(summed(counts), smoothing=smoothing) == pytest.approx(theirs, abs=1e-9)
    assert "tok:none" in signature and f"smooth:{smoothing}" in signature
    library = pytest.importorskip("sacrebleu")
    for count, (output, own) in zip(counts, rows):
        one = library.sentence_bleu(output, own, smooth_method=smoothing, tokenize="none", use_effective_order=True)
        assert bleu_of(count, smoothing=smoothing, effective=True) == pytest.approx(one.score, abs=1e-9)


def test_outputs_without_references_are_an_error():
    for outputs, references in (([], []), (["a"], []), (["a", "b"], [["a"], []])):
        with pytest.raises(ValueError, match="needs a reference"):
            bleu(outputs, references)


def test_chrf_is_signed_and_forgives_endings():
    near, signature = chrf(["the cats sit"], [["the cat sits"]])
    far, _ = chrf(["the dogs ran"], [["the cat sits"]])
    assert 100 > near > far > 0 and "nw:0" in signature and "nw:2" in chrf(["a"], [["a"]], words=2)[1]


@given(TEXT, TEXT, st.booleans())
def test_rouge_is_rouge_score(output, reference, stemmed):
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(
        ["rouge1", "rouge2", "rougeL", "rougeLsum"], use_stemmer=stemmed)
    theirs = scorer.score(reference, output)
    ours = rouge(output, reference, stem=porter() if stemmed else None)
    for name, score in theirs.items():
        found = ours[name]
        assert (found.precision, found.recall, found.f1) == pytest.approx(tuple(score), abs=1e-12), name


def test_rouge_by_hand():
    found = rouge("police kill the gunman", "police killed the gunman")
    assert found["rouge1"].f1 == 0.75 and found["rouge2"].recall == 1 / 3 and found["rougeL"].precision == 0.75
    assert rouge("", "a")["rougeL"].f1 == 0 == rouge("", "")["rouge1"].f1
    assert common("abcbdab", "bdcaba") and len(common("abcbdab", "bdcaba")) == 4


def test_word_error_rate_by_hand():
    assert word_error_rate(["the cat sat"], ["the cat sat"]) == 0
    assert word_error_rate(["the bat sat down", ""], ["the cat sat", "hello"]) == 3 / 4
    assert word_error_rate(["a b c d"], ["x"]) == 4
    with pytest.raises(ValueError, match="must have a word"):
        word_error_rate(["a"], [" "])
