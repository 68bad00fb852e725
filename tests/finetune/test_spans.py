"""Spans: the best of all there are, windows that cover a text, and the window a token is asked in."""

import numpy as np
import pytest

from bloomery.finetune.spans import best_span, cuts, decoded, most_context, windows
from bloomery.text.framing import frame_of
from bloomery.text.wordpiece import wordpiece

TOKENIZER = wordpiece(["a b c d e f g h i j k l m n o p q r s t u v w x y z"] * 3, vocabulary=60)
FRAME = frame_of(TOKENIZER, causal=False, where="here")


@pytest.mark.parametrize("seed", range(30))
def test_the_best_span_is_that_of_a_search_through_all(seed):
    draw = np.random.default_rng(seed)
    n, longest = int(draw.integers(2, 14)), int(draw.integers(1, 6))
    start, end, inside = np.round(draw.normal(size=n), 1), np.round(draw.normal(size=n), 1), draw.random(n) < 0.7
    found = best_span(start, end, inside, longest=longest)
    every = [(start[i] + end[j], -i, -j) for i in range(n) for j in range(i, min(n, i + longest))
             if inside[i] and inside[j]]
    if every:
        assert (round(found.score, 9), -found.start, -found.end) == max((round(s, 9), i, j) for s, i, j in every)
    else:
        assert found.start == -1 and found.nothing()
    assert found.null == start[0] + end[0]


def test_no_answer_needs_to_score_higher_by_more_than_the_threshold():
    found = best_span(np.array([1.0, 0.0, 0.0]), np.array([1.0, 0.0, 0.0]), np.array([False, True, True]))
    assert found.nothing(1.9) and not found.nothing(2.0)


@pytest.mark.parametrize(("tokens", "room", "stride"), [(5, 10, 4), (10, 10, 4), (23, 10, 4), (40, 7, 7), (30, 5, 9)])
def test_windows_cover_every_token_and_each_begins_in_one(tokens, room, stride):
    bounds = cuts(tokens, room, stride)
    assert bounds[0][0] == 0 and bounds[-1][1] == tokens and all(b - a <= room for a, b in bounds)
    owner = most_context(bounds, tokens)
    for token in range(tokens):
        sides = [min(token - a, b - 1 - token) + 0.01 * (b - a) if a <= token < b else -1 for a, b in bounds]
        assert owner[token] == int(np.argmax(sides)) and max(sides) >= 0


def test_a_span_of_a_later_window_is_counted_in_the_texts_tokens():
    text, question = TOKENIZER.encode("a b c d e f g h i j k l m n o p"), TOKENIZER.encode("q r")
    made = windows(question, text, FRAME, 15, stride=5)
    assert len(made) > 1 and all(len(window.ids) <= 15 and len(window.types) == len(window.ids) for window in made)
    scores = [np.zeros((len(window.ids), 2)) for window in made]
    number = int(most_context([(w.first, w.last) for w in made], len(text))[11])
    scores[number][made[number].place(11), 0] = scores[number][made[number].place(12), 1] = 5.0
    found = decoded(made, scores)
    assert (found.start, found.end, found.score, found.null) == (11, 12, 10.0, 0.0)
    other = next(i for i, w in enumerate(made) if i != number and w.place(11))     # it has less context there
    scores[other][made[other].place(11), 0] = 50.0
    assert decoded(made, scores).score == 10.0


def test_a_question_without_room_for_a_text_is_an_error():
    with pytest.raises(ValueError, match="leaves no room"):
        windows(TOKENIZER.encode("a b c d"), TOKENIZER.encode("e f"), FRAME, 7)
