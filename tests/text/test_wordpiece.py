"""WordPiece: pieces as BERT has them, a function of the texts, and a folder other tools open."""

import subprocess
import sys

import pytest

from bloomery.text.framing import frame_of
from bloomery.text.tokenizer import load_tokenizer
from bloomery.text.wordpiece import ROLES, wordpiece

TEXTS = ["The furnaces smelt iron.\nIron, smelted!", "A furnace is a furnace; naïve smelters smelt."] * 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    room = tmp_path_factory.mktemp("words")
    wordpiece(TEXTS, vocabulary=90).save(room, context=16)
    return room


def test_a_folder_is_framed_and_read_by_transformers_as_here(folder):
    from transformers import AutoTokenizer

    ours, theirs = load_tokenizer(folder), AutoTokenizer.from_pretrained(folder)
    a, b = "Furnaces smelt,\nnaïve [MASK]", "iron is IRON"
    found = theirs(a, b)
    frame = frame_of(ours, causal=False, where="")
    assert frame(ours.encode(a.replace("[MASK]", "")), ours.encode(b))[0][-4:] == found["input_ids"][-4:]
    pair = theirs("iron", b)
    assert frame(ours.encode("iron"), ours.encode(b)) == (pair["input_ids"], pair["token_type_ids"])
    assert [ours.name(i) for i in range(5)] == list(ROLES)
    assert (ours.mask, ours.pad, ours.cls, ours.sep) == (theirs.mask_token_id, theirs.pad_token_id, 2, 3)
    assert ours.control.isdisjoint(ours.encode("[MASK] [CLS]")) and theirs.mask_token_id in found["input_ids"]


def test_words_are_pieces_that_go_on_and_unknown_letters_are_unknown(folder):
    tokenizer = load_tokenizer(folder)
    names = [tokenizer.name(i) for i in tokenizer.encode("furnacelts")]
    assert "".join(name.removeprefix("##") for name in names) == "furnacelts"
    assert not names[0].startswith("##") and any(name.startswith("##") for name in names)
    assert tokenizer.encode("Ω") == [tokenizer.unknown] and tokenizer.decode(tokenizer.encode("Iron!")) == "iron!"
    assert tokenizer.encode_batch(["a furnace\nis", "iron"]) == [
        tokenizer.encode("a furnace is"), tokenizer.encode("iron")]


def test_the_vocabulary_is_a_function_of_the_texts():
    code = f"from bloomery.text.wordpiece import wordpiece; print(sorted(wordpiece({TEXTS!r}, vocabulary=80).backend" \
           ".get_vocab().items()))"
    first, second = (subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
                     for _ in range(2))
    assert first == second and "##s" in first


def test_letter_case_may_be_kept():
    tokenizer = wordpiece(TEXTS, vocabulary=90, lowercase=False)
    assert tokenizer.encode("Iron") != tokenizer.encode("iron")


@pytest.mark.parametrize(("a", "b", "room"), [(10, 3, 8), (3, 10, 8), (6, 6, 7), (4, 0, 3), (2, 2, 9)])
def test_the_longer_part_is_cut(folder, a, b, room):
    frame = frame_of(load_tokenizer(folder), causal=False, where="")
    context = room + (3 if b else 2)
    first, second, over = frame.fitted(context, list(range(a)), list(range(b)))
    assert len(first) + len(second) == min(a + b, room) and over == max(0, a + b - room)
    assert len(frame(first, second)[0]) <= context and abs(len(first) - len(second)) <= max(1, abs(a - b) - over)
