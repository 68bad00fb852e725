"""Streamed text is the whole text up to the stop string, and nothing that may belong to one is shown too early."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bloomery.generate.stopping import TextStream, cut_at_stop, held_back

TEXT = st.text(alphabet="ab<>", max_size=30)
STOPS = st.lists(st.text(alphabet="ab<>", min_size=1, max_size=4), max_size=3)


def streamed(pieces: list[str], stops: list[str]) -> tuple[list[str], bool]:
    stream, text, shown = TextStream(stops), "", []
    for piece in pieces:
        text += piece
        shown.append(stream.push(text))
        if stream.stopped:
            return shown, True
    return [*shown, stream.push(text, last=True)], stream.stopped


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
    shown, stopped = streamed(pieces, stops)
    text = "".join(pieces[:len(shown)])
    assert "".join(shown) == cut_at_stop(text, stops)[0]
    assert stopped == (cut_at_stop(text, stops)[1] is not None)


@given(text=TEXT, stops=STOPS)
def test_what_is_held_back_may_become_a_stop_string(text, stops):
    n = held_back(text, stops)
    assert n == 0 or any(stop.startswith(text[-n:]) and stop != text[-n:] for stop in stops)
    for longer in range(n + 1, len(text) + 1):
        assert not any(stop.startswith(text[-longer:]) and stop != text[-longer:] for stop in stops)


def test_the_bytes_of_an_unfinished_character_wait():
    """Decoded so far: "a", then a character of four bytes arriving one by one, then "b"."""
    stream = TextStream()
    grown = ["a", "a\ufffd", "a\ufffd", "a\ufffd", "a🙂", "a🙂b"]
    assert [stream.push(text) for text in grown] == ["a", "", "", "", "🙂", "b"]


def test_bytes_that_never_become_a_character_are_shown_at_the_end():
    stream = TextStream()
    assert [stream.push("a\ufffd"), stream.push("a\ufffd", last=True)] == ["a", "\ufffd"]


def test_an_empty_stop_string_is_refused():
    for call in (lambda: cut_at_stop("a", [""]), lambda: held_back("a", [""])):
        with pytest.raises(ValueError, match="must not be empty"):
            call()
