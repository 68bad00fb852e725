"""ARPA files: there and back, what kenlm reads of them, and what is said of files that are not right."""

import numpy as np
import pytest

from bloomery.classic import arpa
from bloomery.classic.lexicon import START, Lexicon
from bloomery.classic.ngram import Ngram
from bloomery.classic.smoothing import SMOOTHING
from bloomery.core.errors import InputError

SENTENCES = [line.split() for line in (
    "the cat sat on the mat", "the dog sat on the mat", "a cat and a dog", "the cat")]
ASKED = [line.split() for line in ("the dog sat on a mat", "cats and dogs", "mat", "the cat")]
HAND = r"""
\data\
ngram 1=4
ngram 2=2

\1-grams:
-99	<s>	-0.30103
-0.60206	</s>
-0.30103	a	-1
-0.60206	b	-0.2

\2-grams:
-0.1	<s> a
-0.2	a b

\end\
"""


def fitted(name: str, order: int = 3) -> tuple[Ngram, Lexicon]:
    lexicon, ids = Lexicon.counted(SENTENCES)
    return Ngram(order, len(lexicon), smoothing=SMOOTHING[name](), start=START).fit(ids), lexicon


@pytest.mark.parametrize("order", [1, 2, 4])
@pytest.mark.parametrize("name", ["interpolated", "witten_bell", "kneser_ney", "modified_kneser_ney"])
def test_what_is_written_is_read_again(tmp_path, name, order):
    model, lexicon = fitted(name, order)
    count = arpa.write(model, lexicon.words, tmp_path / "model.arpa")
    again, words = arpa.read(tmp_path / "model.arpa")
    assert count == sum(len(order.grams) for order in again.orders)
    for sentence in (*SENTENCES, *ASKED):
        np.testing.assert_allclose(again.probabilities(words.ids(sentence)), model.probabilities(lexicon.ids(sentence)),
                                   rtol=2e-6)
    assert again.distribution([START]).sum() == pytest.approx(1, abs=1e-5)


def test_a_file_made_by_hand(tmp_path):
    (tmp_path / "hand.arpa").write_text(HAND)
    model, lexicon = arpa.read(tmp_path / "hand.arpa")
    logs = np.log10(model.probabilities(lexicon.ids(["a", "a", "b", "b"])))
    # a after <s>; a after a: backs off; b after a; b after b: backs off; </s> after b: backs off
    np.testing.assert_allclose(logs, [-0.1, -1 - 0.30103, -0.2, -0.2 - 0.60206, -0.2 - 0.60206], atol=1e-9)
    assert model.probabilities(lexicon.ids(["zebra"]))[0] == 0          # the file has no <unk>


def test_kenlm_reads_what_is_written(tmp_path):
    kenlm = pytest.importorskip("kenlm", reason="kenlm is not installed")
    model, lexicon = fitted("modified_kneser_ney", 3)
    arpa.write(model, lexicon.words, tmp_path / "model.arpa")
    theirs = kenlm.Model(str(tmp_path / "model.arpa"))
    for sentence in (*SENTENCES, *ASKED):
        ours = np.log10(model.probabilities(lexicon.ids(sentence))).sum()
        assert theirs.score(" ".join(sentence)) == pytest.approx(ours, abs=1e-5)


@pytest.mark.parametrize("name", ["mle", "add_k"])
def test_a_model_that_never_backs_off_is_refused(tmp_path, name):
    model, lexicon = fitted(name)
    with pytest.raises(InputError, match="cannot be an ARPA file"):
        arpa.write(model, lexicon.words, tmp_path / "model.arpa")


def test_a_word_with_a_space_is_refused(tmp_path):
    model, lexicon = fitted("witten_bell")
    with pytest.raises(InputError, match="a space in it"):
        arpa.write(model, [*lexicon.words[:-1], "two words"], tmp_path / "model.arpa")


@pytest.mark.parametrize(("old", "new", "what"), [
    ("-0.2\ta b", "-0.2\ta c", "not a gram of order 2"), ("-0.2\ta b", "minus\ta b", "not a gram of order 2"),
    ("-0.2\ta b", "-0.2\ta b b b", "not a gram of order 2"), ("-0.2\ta b", "-0.1\t<s> a", "stands there twice"),
    ("\\end\\", "", "cut off"), ("\\2-grams:", "\\3-grams:", "comes after order 1"),
    (HAND, "\\data\\\n\\end\\\n", "no n-grams")])
def test_a_broken_file_says_where(tmp_path, old, new, what):
    (tmp_path / "broken.arpa").write_text(HAND.replace(old, new))
    with pytest.raises(InputError, match=what) as caught:
        arpa.read(tmp_path / "broken.arpa")
    assert "broken.arpa" in caught.value.where


def test_a_gram_needs_the_one_it_continues(tmp_path):
    (tmp_path / "gap.arpa").write_text(HAND.replace("\\end\\", "\\3-grams:\n-0.5\tb a b\n\n\\end\\"))
    with pytest.raises(InputError, match="without the one it continues") as caught:
        arpa.read(tmp_path / "gap.arpa")
    assert caught.value.why == "b a b"


def test_words_that_are_not_utf8_keep_their_bytes(tmp_path):
    """Old files have words in Latin-1."""
    text = HAND.replace("\tb", "\tcaf\xe9").replace(" b\n", " caf\xe9\n")
    (tmp_path / "old.arpa").write_bytes(text.encode("latin-1"))
    model, lexicon = arpa.read(tmp_path / "old.arpa")
    arpa.write(model, lexicon.words, tmp_path / "new.arpa")
    assert b"\tcaf\xe9\t" in (tmp_path / "new.arpa").read_bytes()
