"""Characters and words as ids: the text comes back, counts are the field's, what is unknown says so."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bloomery.text.closed import characters, words
from bloomery.text.tokenizer import CONTROL, load_tokenizer

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
KINDS = pytest.mark.parametrize("kind", [characters, words])


@KINDS
@given(text=TEXT)
def test_the_text_comes_back(kind, text):
    tokenizer = kind([text])
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_characters_stand_in_the_order_of_their_code_points():
    tokenizer = characters(["hello", "world"])
    names = [*CONTROL, "\ufffd", *sorted(set("helloworld"))]
    assert tokenizer.size == len(names) and [tokenizer.backend.id_to_token(i) for i in range(len(names))] == names
    assert len(tokenizer.encode("hello")) == 5 and tokenizer.decode(tokenizer.encode("hex")) == "he\ufffd"


def test_words_and_line_ends_are_counted_as_wikitext_does():
    text = " \n = Robert <unk> = \n \n He had a role . \n"
    tokenizer = words([text])
    ids = tokenizer.encode(text)
    assert len(ids) == len(text.split()) + text.count("\n")
    unknown = tokenizer.backend.token_to_id(" <unk>")
    assert ids.count(unknown) == 1 and tokenizer.encode(" never seen") == [unknown] * 2
    assert tokenizer.backend.id_to_token(4) == " \n"            # the commonest is first


def test_a_limit_keeps_the_commonest_words():
    tokenizer = words([" a a a b b c c d"], vocabulary=7)
    assert tokenizer.size == 7 and tokenizer.decode(tokenizer.encode(" a b c d")) == " a b c <unk>"


@KINDS
def test_control_tokens_in_text_are_text_and_the_folder_opens_anywhere(kind, tmp_path):
    text = "a <|im_start|> b\n\nc"
    tokenizer = kind([text])
    assert not set(tokenizer.encode(text)) & {tokenizer.eos, tokenizer.turn_start, tokenizer.turn_end}
    tokenizer.save(tmp_path, context=8, chat_template="")
    again = load_tokenizer(tmp_path)
    assert again.encode(text) == tokenizer.encode(text) and again.decode(again.encode(text)) == text
    from transformers import PreTrainedTokenizerFast

    plain = "b a\nc"
    theirs = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    assert theirs(plain)["input_ids"] == tokenizer.encode(plain)
    assert theirs.decode(theirs(plain)["input_ids"]) == tokenizer.decode(tokenizer.encode(plain))
