"""The kernel that draws tokens: those of the plain operations, with their log-probabilities."""

import pytest
import torch

from bloomery.generate.sampling import (
    AS_IS,
    GREEDY,
    Row,
    Sampling,
    choose,
    choose_block,
    draw,
    filtered,
    greedy,
    uniform,
)

pytest.importorskip("numba")
from bloomery.generate.draw_kernel import PART, drawn  # noqa: E402


@pytest.mark.parametrize("vocabulary", [1, 7, PART, PART + 1, 5 * PART - 3])
@pytest.mark.parametrize("temperature", [0.0, 1e-40, 0.5, 1.0, 2.5])
def test_it_draws_what_the_plain_operations_draw(vocabulary, temperature):
    logits = torch.randn(9, vocabulary, generator=torch.Generator().manual_seed(vocabulary)) * 4
    chances = [uniform(3, row, 0) for row in range(9)]
    ids, logp, raw = drawn(logits, [temperature] * 9, chances)
    spread = filtered(logits, Sampling(temperature)) if temperature else logits.log_softmax(-1)
    assert ids == (draw(spread, chances) if temperature else greedy(logits)).tolist()
    for got, wanted in ((logp, spread), (raw, logits.log_softmax(-1))):
        torch.testing.assert_close(torch.tensor(got), wanted[range(9), ids], atol=3e-6, rtol=0)


def test_rows_of_many_temperatures_are_drawn_as_alone():
    logits = torch.randn(6, 3 * PART, generator=torch.Generator().manual_seed(1))
    temperatures, chances = [0.0, 1.0, 0.3, 1.0, 2.0, 0.0], [0.1, 0.9, 0.5, 0.0, 0.7, 0.2]
    together = list(zip(*drawn(logits, temperatures, chances), strict=True))
    alone = [next(zip(*drawn(logits[i:i + 1], temperatures[i:i + 1], chances[i:i + 1]), strict=True)) for i in range(6)]
    assert together == alone


def test_what_can_never_be_said_is_not_drawn():
    logits = torch.full((3, 2 * PART), -torch.inf)
    logits[0, 300], logits[1, 5], logits[1, 400] = 1.0, 0.0, 0.0
    logits[2, 7], logits[2, 8] = 0.0, -1e30
    ids, logp, _ = drawn(logits, [1.0, 1.0, 1.0], [0.0, 0.75, 0.999999])
    assert ids == [300, 400, 7] and logp == pytest.approx([0.0, -0.693147, 0.0], abs=1e-6)


def test_rows_that_are_no_distribution_say_so():
    logits = torch.zeros(4, PART)
    logits[0, 3], logits[1, 3], logits[2] = torch.nan, torch.inf, -torch.inf
    _, logp, raw = drawn(logits, [1.0, 0.0, 1.0, 1.0], [0.5] * 4)
    assert all(x != x for x in (*logp[:3], *raw[:3])) and logp[3] == pytest.approx(-5.545177)


@pytest.mark.parametrize("alternatives", [0, 3])
def test_choosing_with_the_kernel_is_choosing_in_blocks(alternatives):
    logits = torch.randn(20, 500, generator=torch.Generator().manual_seed(2)) * 3
    hows = [GREEDY, AS_IS, Sampling(0.7), Sampling(0.7, top_p=0.9), Sampling(repetition_penalty=1.3)]
    rows = [Row(hows[i % 5], (1, 2), [3], i, forbidden=frozenset({9} if i == 10 else ()), alternatives=alternatives)
            for i in range(20)]
    for got, wanted in zip(choose(logits, rows), choose_block(logits, rows), strict=True):
        assert got.id == wanted.id and got.top == wanted.top
        assert (got.logp, got.raw) == pytest.approx((wanted.logp, wanted.raw), abs=3e-6)
        assert not alternatives or got.raw == dict(got.top).get(got.id, got.raw)
