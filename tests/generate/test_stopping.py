"""Streamed text is the whole text up to the stop string, and nothing that may belong to one is shown too early."""

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models

from bloomery.generate.stopping import StopStrings, TextStream, cut_at_stop, held_back, token_bytes
from bloomery.text.tokenizer import CONTROL, SMALLEST, Tokenizer, train_tokenizer

TEXT = st.text(alphabet="ab<>", max_size=30)
STOPS = st.lists(st.text(alphabet="ab<>", min_size=1, max_size=4), max_size=3)
WORDS = "die Größe 🙂 世界 a<b>a ab<<>> e\u0301\ufffd 👩\u200d👩\u200d👧 naïve\n\n"


@cache
def bytewise(merges: int) -> Tokenizer:
    return train_tokenizer([WORDS] * 3, vocabulary=SMALLEST + merges)


@cache
def pieced() -> Tokenizer:
    """A tokenizer that puts "▁" for a space and bytes for what it does not know, as sentencepiece does."""
    names = [*CONTROL, "<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "▁a", "▁b", "a", "b", "▁hello", "lo"]
    backend = Backend(models.BPE({name: i for i, name in enumerate(names)}, [], unk_token="<unk>", byte_fallback=True))
    backend.add_special_tokens(list(CONTROL))
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                                         decoders.Strip(" ", 1, 0)])
    return Tokenizer(backend)


def streamed(tokenizer: Tokenizer, ids: list[int], stops: list[str]) -> tuple[list[str], TextStream]:
    stream, shown = TextStream(tokenizer, stops), []
    for id in ids:
        shown.append(stream.push(id))
        if stream.stopped is not None:
            break
    return [*shown, stream.finish()], stream


# --- text ---------------------------------------------------------------------------------------------------------

@given(text=TEXT, stops=STOPS)
def test_the_cut_is_before_the_earliest_stop_string(text, stops):
    kept, stop = cut_at_stop(text, stops)
    if stop is None:
        assert kept == text and not any(s in text for s in stops)
    else:
        assert text.startswith(kept + stop) and min(text.find(s) for s in stops if s in text) == len(kept)
        assert all(len(s) <= len(stop) for s in stops if text.startswith(s, len(kept)))


@given(pieces=st.lists(TEXT, max_size=8), stops=STOPS)
def test_what_is_shown_is_a_prefix_of_what_stays(pieces, stops):
    """Cut piece by piece, the first stop string to be complete decides; nothing shown is ever taken back."""
    watch, shown = StopStrings(stops), []
    for piece in pieces:
        shown.append(watch.push(piece))
        if watch.stopped is not None:
            break
    text = "".join(pieces[:len(shown)])
    shown.append(watch.push("", last=True))
    assert ("".join(shown), watch.stopped) == cut_at_stop(text, stops)


@given(text=TEXT, stop=st.text(alphabet="ab<>", min_size=1, max_size=4), cuts=st.lists(st.integers(0, 30), max_size=9))
def test_one_stop_string_is_found_however_the_text_is_split(text, stop, cuts):
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    watch = StopStrings([stop])
    shown = "".join(watch.push(text[a:b]) for a, b in zip(edges, edges[1:], strict=False)) + watch.push("", last=True)
    assert (shown, watch.stopped) == (text.partition(stop)[0], stop if stop in text else None)


@given(text=TEXT, stops=STOPS)
def test_what_is_held_back_may_become_a_stop_string(text, stops):
    n = held_back(text, stops)
    assert n == 0 or any(stop.startswith(text[-n:]) and stop != text[-n:] for stop in stops)
    for longer in range(n + 1, len(text) + 1):
        assert not any(stop.startswith(text[-longer:]) and stop != text[-longer:] for stop in stops)


def test_of_two_that_begin_together_the_longer_stops():
    assert cut_at_stop("say <end> now", ["<end>", "<end", "now"]) == ("say ", "<end>")


def test_an_empty_stop_string_is_refused():
    for call in (lambda: cut_at_stop("a", [""]), lambda: held_back("a", [""]), lambda: StopStrings(["b", ""]),
                 lambda: TextStream(bytewise(0), [""])):
        with pytest.raises(ValueError, match="must not be empty"):
            call()


# --- tokens -------------------------------------------------------------------------------------------------------

def test_the_bytes_of_an_unfinished_character_wait():
    stream = TextStream(bytewise(0))
    assert [stream.push(id) for id in bytewise(0).encode("a🙂b")] == ["a", "", "", "", "🙂", "b"]
    assert stream.finish() == "" and stream.text == "a🙂b"


def test_bytes_that_never_become_a_character_are_shown_at_the_end():
    stream = TextStream(bytewise(0))
    assert [stream.push(id) for id in bytewise(0).encode("a🙂")[:3]] == ["a", "", ""]
    assert [stream.finish(), stream.finish()] == ["\ufffd", ""] and stream.text == "a\ufffd"


def test_bytes_that_cannot_become_a_character_do_not_wait():
    """A model that speaks nonsense says bytes that never begin a character; each is shown as it comes."""
    lone = next(id for id in range(SMALLEST) if token_bytes(bytewise(0).backend, id) == b"\x80")
    stream = TextStream(bytewise(0))
    assert [stream.push(lone) for _ in range(50)] == ["\ufffd"] * 50


@pytest.mark.parametrize("merges", [0, 40])
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_any_ids_give_what_decoding_all_of_them_gives(merges, data):
    tokenizer = bytewise(merges)
    ids = data.draw(st.lists(st.integers(0, tokenizer.size - 1), max_size=25))
    shown, stream = streamed(tokenizer, ids, [])
    assert "".join(shown) == tokenizer.decode(ids) == stream.text and stream.stopped is None


@given(text=st.text(alphabet=WORDS, max_size=25), merges=st.sampled_from([0, 40]),
       stops=st.lists(st.text(alphabet=WORDS, min_size=1, max_size=4), max_size=3))
@settings(max_examples=200, deadline=None)
def test_stop_strings_across_tokens_cut_as_in_the_whole_text(text, merges, stops):
    """The reference decodes everything again after every token and looks for stop strings in all of it."""
    tokenizer = bytewise(merges)
    stops = [stop for stop in stops if "\ufffd" not in stop]        # an unfinished character decodes to one
    ids = tokenizer.encode(text)
    found = [cut_at_stop(tokenizer.decode(ids[:n]), stops) for n in range(len(ids) + 1)]
    stop = next((n for n, (_, stopped) in enumerate(found) if stopped is not None), len(ids))
    shown, stream = streamed(tokenizer, ids, stops)
    assert ("".join(shown), stream.stopped) == found[stop] and stream.text == found[stop][0]
    assert len(shown) == max(stop, 1) + 1 or not ids
    for n in range(len(shown)):
        assert text.startswith("".join(shown[:n]))


def test_nothing_is_shown_after_a_stop_string():
    stream = TextStream(bytewise(0), ["<>"])
    assert "".join(stream.push(id) for id in bytewise(0).encode("a<>b<>c")) + stream.finish() == "a"
    assert stream.stopped == "<>" and stream.text == "a"


def test_a_stop_string_may_be_what_flushing_shows():
    tokenizer = bytewise(0)
    stream = TextStream(tokenizer, ["b\ufffd"])
    assert [stream.push(id) for id in tokenizer.encode("ab🙂")[:3]] == ["a", "", ""]
    assert stream.finish() == "" and stream.stopped == "b\ufffd" and stream.text == "a"


def test_control_tokens_are_no_text():
    tokenizer = bytewise(0)
    ids = [*tokenizer.encode("a"), tokenizer.turn_end, tokenizer.turn_start, *tokenizer.encode("<|im_end|>")]
    assert "".join(streamed(tokenizer, ids, [])[0]) == tokenizer.decode(ids) == "a<|im_end|>"


def test_every_byte_has_a_token_that_stands_for_it():
    backend = bytewise(40).backend
    assert {token_bytes(backend, id) for id in range(SMALLEST)} >= {bytes([byte]) for byte in range(256)}
    for id, text in ((backend.token_to_id(token), token) for token in CONTROL):
        assert token_bytes(backend, id) == text.encode()
    ids = bytewise(40).encode(WORDS)
    assert b"".join(token_bytes(backend, id) for id in ids) == WORDS.encode() and len(ids) < len(WORDS.encode())


@given(words=st.lists(st.sampled_from(["▁hello", "▁a", "b", "lo", "▁", "é", "🙂"]), max_size=12))
@settings(max_examples=60, deadline=None)
def test_a_tokenizer_of_another_kind_streams_too(words):
    tokenizer = pieced()
    ids = [id for word in words for id in
           ([tokenizer.backend.token_to_id(word)] if word not in "é🙂" else
            [tokenizer.backend.token_to_id(f"<0x{byte:02X}>") for byte in word.encode()])]
    shown, _ = streamed(tokenizer, ids, [])
    assert "".join(shown) == tokenizer.decode(ids) and not any("\ufffd" in piece for piece in shown)


def test_a_tokenizer_of_another_kind_ends_visibly():
    tokenizer = pieced()
    ids = [tokenizer.backend.token_to_id(name) for name in ("▁a", "<0xF0>", "<0x9F>")]
    whole = tokenizer.decode(ids)
    assert streamed(tokenizer, ids, [])[0] == ["a", "", "", whole[1:]] and whole.endswith("\ufffd")
