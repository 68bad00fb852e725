"""Answers below their prompts: each answer's tokens are its targets, prompts are never trained."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bloomery.data.answers import answer_forest, tokens

IDS = st.lists(st.integers(0, 99), min_size=1, max_size=8)


@given(asked=st.lists(st.tuples(IDS, st.lists(IDS, min_size=1, max_size=4)), min_size=1, max_size=5))
def test_every_answer_is_predicted_from_the_prompt_s_last_token_on(asked):
    prompts, answers = [prompt for prompt, _ in asked], [group for _, group in asked]
    batch = answer_forest(prompts, answers)
    assert len(batch.ids) == sum(tokens(p, g) for p, g in asked)
    assert batch.count == len(asked) and batch.lengths.tolist() == [len(a) for group in answers for a in group]
    flat = [(prompt, ids) for prompt, group in asked for ids in group]
    for number, (prompt, ids) in enumerate(flat):
        own = batch.answer == number
        assert batch.targets[own].tolist() == ids and batch.weights[own].tolist() == [1.0] * len(ids)
        assert batch.ids[own].tolist() == [prompt[-1], *ids[:-1]]
        assert batch.positions[own].tolist() == list(range(len(prompt) - 1, len(prompt) - 1 + len(ids)))
    assert batch.weights[batch.answer < 0].eq(0).all()


def test_pairs_must_match():
    with pytest.raises(ValueError, match="zip"):
        answer_forest([[1, 2]], [])
