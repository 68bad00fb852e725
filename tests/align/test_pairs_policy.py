"""What becomes of pairs and ratings that do not fit, say nothing or say the same; what is told before training."""

import pytest

from bloomery.align.pairs import (
    BALANCED,
    Pair,
    Rated,
    UnusableConfig,
    as_ratings,
    described,
    imbalance,
    lengths,
    render_pairs,
    render_ratings,
    shared_prompts,
)
from bloomery.core.errors import InputError
from bloomery.core.records import Message, Preference, Rating
from bloomery.text.chat import Renderer
from bloomery.text.tokenizer import SMALLEST, train_tokenizer


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer(train_tokenizer(["x"], vocabulary=SMALLEST))


def asked(text: str) -> tuple[Message, ...]:
    return (Message("user", text),)


def rows(*ratings: tuple[str, str, bool]) -> list[Rating]:
    return [Rating(asked(prompt), text, good, f"row {n}") for n, (prompt, text, good) in enumerate(ratings)]


LONG = [Preference(asked("Is it?"), "yes", "no" * 20, id="a"), Preference(asked("Is it?" * 9), "yes", "no", id="b"),
        Preference(asked("Is it?"), "yes", "no", id="c", margin=0.5, share=0.8)]


def test_too_long_is_dropped_unless_something_is_to_be_cut(renderer):
    room = len(renderer.prompt(asked("Is it?"))) + 8
    pairs, counts = render_pairs(LONG, renderer, room, where="here")
    assert counts["dropped/too_long"] == 2 and (pairs[0].margin, pairs[0].share) == (0.5, 0.8)

    pairs, counts = render_pairs(LONG, renderer, room, where="here", policy=UnusableConfig(too_long="cut_answers"))
    assert (counts["pairs"], counts["cut/answers"], counts["dropped/too_long"]) == (2, 1, 1)    # a prompt cannot be
    assert pairs[0].rejected == renderer.answer("no" * 20)[:8] and renderer.end not in pairs[0].rejected
    assert pairs[0].chosen == renderer.answer("yes")

    pairs, counts = render_pairs(LONG, renderer, room, where="here", policy=UnusableConfig(too_long="cut_prompt"))
    whole = renderer.prompt(asked("Is it?" * 9))
    assert (counts["cut/prompts"], counts["dropped/too_long"]) == (1, 1)        # an answer longer than all room
    assert pairs[0].prompt == whole[-len(pairs[0].prompt):]
    assert all(len(pair.prompt) + max(map(len, pair.answers)) <= room for pair in pairs)

    with pytest.raises(InputError, match="a row has too long") as caught:
        render_pairs(LONG, renderer, room, where="here", policy=UnusableConfig(too_long="error"))
    assert caught.value.where == "a"


def test_answers_that_are_equal_once_they_are_cut_are_not_learned_from(renderer):
    same = [Preference(asked("Is it?"), "no" * 20 + "!", "no" * 20 + "?"), LONG[2]]
    room = len(renderer.prompt(asked("Is it?"))) + 8
    pairs, counts = render_pairs(same, renderer, room, where="here", policy=UnusableConfig(too_long="cut_answers"))
    assert (len(pairs), counts["dropped/equal_answers"], counts["cut/answers"]) == (1, 1, 2)


def test_each_rated_answer_stands_beside_one_to_another_prompt(renderer):
    data = rows(("a", "one", True), ("a", "two", False), ("b", "three", True), ("c", "four", False))
    items, counts = render_ratings(data, renderer, 100, where="here")
    said = [renderer.answer(text) for text in ("one", "two", "three", "four")]
    assert [item.completion for item in items] == said and counts["ratings"] == 4
    assert [item.mismatched for item in items] == [said[2], said[2], said[3], said[0]]
    assert [item.desirable for item in items] == [True, False, True, False]


def test_a_mismatched_answer_is_cut_where_its_new_prompt_leaves_little_room(renderer):
    data = rows(("a" * 30, "one", True), ("b", "three" * 9, True))
    room = len(renderer.prompt(data[0].prompt)) + len(renderer.answer("one"))
    room = max(room, len(renderer.prompt(data[1].prompt)) + len(renderer.answer(data[1].completion)))
    items, counts = render_ratings(data, renderer, room, where="here")
    assert items[0].mismatched == renderer.answer("three" * 9)[:room - len(items[0].prompt)] != []
    assert counts["dropped/too_long"] == 0 and items[1].mismatched == renderer.answer("one")


def test_answers_to_one_prompt_alone_say_nothing_of_the_drift(renderer):
    with pytest.raises(InputError, match="to the same prompt"):
        render_ratings(rows(("a", "one", True), ("a", "two", False)), renderer, 100, where="here")


def test_pairs_are_two_ratings_each():
    assert [(r.completion, r.desirable) for r in as_ratings(LONG[:1])] == [("yes", True), ("no" * 20, False)]


def test_lengths_and_shared_prompts_are_told():
    pairs = [Pair([1] * 4, [2] * 3, [3] * 2), Pair([1] * 6, [2] * 5, [3] * 5), Pair([1] * 9, [2], [3] * 9)]
    assert lengths(pairs) == {"tokens/prompt_median": 6, "tokens/prompt_max": 9, "tokens/chosen_median": 3,
                              "tokens/chosen_max": 5, "tokens/rejected_median": 5, "tokens/rejected_max": 9,
                              "tokens/chosen_longer": pytest.approx(1 / 3)}
    assert described(pairs) == "median tokens: prompt 6 (longest 9), chosen 3 (longest 5), rejected 5 (longest 9); " \
                               "the chosen answer is the longer in 33%"
    assert shared_prompts(pairs, [Pair([1] * 4, [7], [8]), Pair([1] * 5, [2], [3])]) == 1
    rated = [Rated([1], [2, 2], [3], True), Rated([4], [5], [6, 6, 6], True)]
    assert lengths(rated).keys() == {f"tokens/{name}_{of}" for name in ("prompt", "chosen") for of in ("median", "max")}


def test_weights_that_balance_two_kinds_are_proposed():
    items = [Rated([1], [2], [3], n % 5 == 0) for n in range(20)]
    said = imbalance(items, 1.0, 1.0)
    assert "4 desirable and 16 undesirable answers weigh 0.25 to 1" in said and "desirable_weight=4 to 5.33" in said
    assert imbalance(items, 4.0, 1.0) is None and imbalance(items, 16 / 3, 1.0) is None and imbalance(items, 1, 0.1)
    assert imbalance(items[:1], 1.0, 1.0) is None and BALANCED == (1.0, 4 / 3)
