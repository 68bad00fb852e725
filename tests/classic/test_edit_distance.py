"""Edit distances: the errata's examples, the laws of a metric, and the shortest path found by brute force."""

from heapq import heappop, heappush

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bloomery.classic.edit_distance import (
    DISTANCES,
    Costs,
    alignment,
    damerau,
    indel,
    levenshtein,
    normalised,
    osa,
    text,
    weighted,
)

WORDS = st.text("abc", max_size=7)


def shortest(a: str, b: str, costs: Costs) -> float:
    """Dijkstra's shortest way from a to b, edit by edit, with every edit allowed anywhere: Damerau's definition."""
    letters, seen, queue = sorted(set(a + b)), set(), [(0.0, a)]
    while queue:
        so_far, word = heappop(queue)
        if word == b:
            return so_far
        if word in seen or len(word) > max(len(a), len(b)) + 1:
            continue
        seen.add(word)
        for i in range(len(word) + 1):
            for letter in letters:
                heappush(queue, (so_far + costs.insert, word[:i] + letter + word[i:]))
                if i < len(word) and letter != word[i]:
                    heappush(queue, (so_far + costs.substitute, word[:i] + letter + word[i + 1:]))
            if i < len(word):
                heappush(queue, (so_far + costs.delete, word[:i] + word[i + 1:]))
            if i + 1 < len(word) and costs.transpose is not None:
                heappush(queue, (so_far + costs.transpose, word[:i] + word[i + 1] + word[i] + word[i + 2:]))
    raise AssertionError("no way found")


@pytest.mark.parametrize(("word", "other", "distance"), [
    ("carr", "cat", 2), ("carr", "car", 1), ("carr", "cart", 1), ("carr", "care", 1), ("carr", "cards", 2),
    ("carr", "cast", 2), ("kitten", "sitting", 3), ("", "", 0), ("", "abc", 3), ("abc", "", 3), ("same", "same", 0)])
def test_worked_examples(word, other, distance):
    """Errata 1.5 to 1.7: `carr` is 2 from `cat`, and three words share the distance 1."""
    assert levenshtein(word, other) == distance


def test_carr_becomes_car_by_deleting_a_letter():
    """Errata 1.6: not by replacing one."""
    assert [edit.kind for edit in alignment("carr", "car") if edit.kind != "keep"] == ["delete"]


def test_restricted_and_unrestricted_transposition_differ():
    assert (osa("ca", "abc"), damerau("ca", "abc"), levenshtein("ca", "abc")) == (3, 2, 3)
    assert (osa("teh", "the"), levenshtein("teh", "the")) == (1, 2)


@settings(max_examples=300)
@given(WORDS, WORDS)
def test_bits_say_what_the_table_says(a, b):
    assert levenshtein(a, b) == weighted(a, b, Costs())
    assert osa(a, b) == weighted(a, b, Costs(transpose=1))


@settings(max_examples=60)
@given(st.text("ab", max_size=4), st.text("abc", max_size=4))
def test_they_are_shortest_ways(a, b):
    assert damerau(a, b) == shortest(a, b, Costs(transpose=1))
    assert levenshtein(a, b) == shortest(a, b, Costs())
    costs = Costs(insert=1.5, delete=1, substitute=1.25, transpose=1.3)
    assert damerau(a, b, costs) == pytest.approx(shortest(a, b, costs))


@settings(max_examples=150)
@given(WORDS, WORDS, WORDS)
def test_the_laws_of_a_metric(a, b, c):
    for name in ("levenshtein", "damerau", "indel"):
        distance = DISTANCES[name]
        assert distance(a, b) == distance(b, a) and (distance(a, b) == 0) == (a == b), name
        assert distance(a, c) <= distance(a, b) + distance(b, c), name
    assert damerau(a, b) <= osa(a, b) <= levenshtein(a, b) <= indel(a, b) <= len(a) + len(b)
    assert 0 <= normalised(a, b) <= 1


@settings(max_examples=150)
@given(WORDS, WORDS, st.tuples(*[st.sampled_from([0, 0.1, 0.3, 0.7, 1, 2])] * 4))
def test_an_alignment_is_a_way_of_that_cost(a, b, prices):
    costs = Costs(*prices)
    edits = alignment(a, b, costs)
    assert "".join(edit.before for edit in edits) == a and "".join(edit.after for edit in edits) == b
    assert sum(edit.cost for edit in edits) == pytest.approx(weighted(a, b, costs))
    for edit in edits:
        shape = {"insert": (0, 1), "delete": (1, 0), "transpose": (2, 2)}.get(edit.kind, (1, 1))
        assert (len(edit.before), len(edit.after)) == shape and (edit.kind == "keep") == (edit.before == edit.after)


def test_costs_may_depend_on_the_letters():
    near = Costs(substitute=lambda x, y: 0.5 if {x, y} == {"a", "s"} else 2.0)
    assert weighted("cat", "cst", near) == 0.5 and weighted("cat", "cut", near) == 2


def test_words_are_symbols_too():
    assert levenshtein(["the", "cat", "sat"], ["the", "dog", "sat", "down"]) == 2
    assert damerau(["b", "a"], ["a", "b"]) == 1


def test_accents_are_part_of_their_letter_once_composed():
    apart = "re\u0301sume\u0301"
    assert levenshtein(apart, "r\u00e9sum\u00e9") == 4 and levenshtein(text(apart), "r\u00e9sum\u00e9") == 0


def test_costs_below_zero_and_swaps_too_cheap_are_refused():
    with pytest.raises(ValueError, match="insert must be at least 0"):
        Costs(insert=-1)
    with pytest.raises(ValueError, match="transpose must be"):
        damerau("ab", "ba", Costs(transpose=0.5))
