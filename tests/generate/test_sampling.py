"""Filters keep what their definitions say, sampling follows the distribution, ties go to the lowest id."""

import re
from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bloomery.core.errors import InputError
from bloomery.generate.sampling import (
    AS_IS,
    GREEDY,
    Row,
    Sampling,
    choose,
    draw,
    filtered,
    greedy,
    min_p,
    repeated,
    sample,
    steer,
    top_k,
    top_p,
    typical,
    uniform,
)
from bloomery.losses.token import token_nll

WEIGHTS = st.lists(st.integers(1, 9), min_size=1, max_size=9)


def kept(logits: torch.Tensor) -> list[int]:
    return logits.isfinite().nonzero()[:, 0].tolist()


def log_of(weights: list[int], dtype: torch.dtype) -> torch.Tensor:
    return torch.tensor([w / sum(weights) for w in weights], dtype=dtype).log()


@given(weights=WEIGHTS, cut=st.integers(0, 80), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_top_p_keeps_the_smallest_set_with_that_mass_exactly(weights, cut, dtype):
    """p is a multiple of 1 / total, so that boundaries are hit exactly; whole numbers decide what is right."""
    total, mass, expected = sum(weights), 0, []
    wanted = 1 + cut % total
    for i in sorted(range(len(weights)), key=lambda i: (-weights[i], i)):
        if mass < wanted:
            expected.append(i)
            mass += weights[i]
    assert kept(top_p(log_of(weights, dtype), wanted / total)) == sorted(expected)


def test_at_least_one_token_survives_every_filter():
    logits = torch.randn(4, 50, generator=torch.Generator().manual_seed(0))
    for how in (Sampling(top_p=1e-9), Sampling(top_k=1), Sampling(min_p=1.0), Sampling(0.01, 3, 0.5, 0.9)):
        assert filtered(logits, how).isfinite().any(-1).all()
        torch.testing.assert_close(filtered(logits, how).exp().sum(-1), torch.ones(4))


@given(weights=WEIGHTS, k=st.integers(0, 12))
def test_top_k_keeps_the_largest_and_all_ties_at_the_cut(weights, k):
    logits = torch.tensor(weights, dtype=torch.float32)
    limit = sorted(weights)[-k] if 0 < k < len(weights) else min(weights)
    assert kept(top_k(logits, k)) == [i for i, w in enumerate(weights) if w >= limit]


@given(weights=WEIGHTS, p=st.sampled_from([0.0, 0.25, 0.5, 1.0]))
def test_min_p_is_relative_to_the_likeliest(weights, p):
    found = kept(min_p(log_of(weights, torch.float64), p))
    assert set(i for i, w in enumerate(weights) if w > p * max(weights) + 1e-9) <= set(found)
    assert not set(found) & set(i for i, w in enumerate(weights) if w < p * max(weights) - 1e-9)


def test_each_filter_sees_what_the_one_before_left():
    """0.4 0.3 0.2 0.1: after top-k 2 the first alone holds 4/7, which reaches top-p 0.5 but not 0.6."""
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1]).log()
    assert kept(filtered(logits, Sampling(top_k=2, top_p=0.5))) == [0]
    assert kept(filtered(logits, Sampling(top_p=0.5))) == [0, 1]
    assert kept(filtered(logits, Sampling(top_k=2, top_p=0.6))) == [0, 1]


def test_ties_go_to_the_lowest_id():
    logits = torch.tensor([[1.0, 3.0, 3.0, 0.0], [2.0, 2.0, 2.0, 2.0]])
    assert greedy(logits).tolist() == [1, 0] == sample(logits, Sampling(temperature=0)).tolist()
    assert kept(top_p(torch.zeros(4), 0.5)) == [0, 1]


def test_samples_follow_the_distribution_and_the_seed():
    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05])
    rows = probabilities.log().expand(20_000, -1)
    drawn = [sample(rows, Sampling(), torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    shares = drawn[0].bincount(minlength=4) / 20_000
    torch.testing.assert_close(shares, probabilities, atol=0.015, rtol=0)
    cold = sample(rows, Sampling(temperature=0.5), torch.Generator().manual_seed(1)).bincount(minlength=4) / 20_000
    torch.testing.assert_close(cold, probabilities**2 / (probabilities**2).sum(), atol=0.015, rtol=0)


@given(weights=st.lists(st.integers(1, 9), min_size=1, max_size=9, unique=True), p=st.floats(0.05, 0.99))
def test_typical_keeps_what_is_nearest_to_the_entropy(weights, p):
    logp = log_of(weights, torch.float64)
    entropy = -float((logp.exp() * logp).sum())
    mass, expected = 0.0, []
    for i in sorted(range(len(weights)), key=lambda i: abs(-float(logp[i]) - entropy)):
        if mass < p - 1e-12:
            expected.append(i)
            mass += float(logp[i].exp())
    assert kept(typical(logp, p)) == sorted(expected)


def test_a_temperature_of_almost_nothing_is_greedy():
    logits = torch.tensor([[3.0, 80.0, -5.0, 79.0]])
    for temperature in (1e-3, 1e-30, 1e-300):
        assert filtered(logits, Sampling(temperature)).exp().tolist() == [[0, 1, 0, 0]]


# --- what was said before -----------------------------------------------------------------------------------------

SETTINGS = st.builds(
    Sampling, temperature=st.floats(0.3, 2), top_k=st.integers(0, 12), top_p=st.floats(0.3, 1), min_p=st.floats(0, 0.2),
    typical_p=st.floats(0.3, 1), repetition_penalty=st.floats(0.5, 2), no_repeat_ngram=st.integers(0, 3),
    logit_bias=st.dictionaries(st.integers(0, 15), st.floats(-2, 2), max_size=3).map(lambda d: tuple(d.items())),
    bad_words=st.lists(st.lists(st.integers(2, 15), min_size=1, max_size=3).map(tuple), max_size=4).map(set).map(tuple))


@pytest.fixture(scope="module")
def peer():
    """Any model of transformers: what is asked of it is only which processors its `generate` would use."""
    transformers = pytest.importorskip("transformers")
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=16, n_embd=4, n_layer=1, n_head=1))


def processed(peer, how: Sampling, logits: torch.Tensor, prompt: list[int], generated: list[int], least: int):
    """Logits (1, V) after every processor of `generate`, in its own order."""
    config = type(peer.generation_config)(
        do_sample=True, temperature=how.temperature, top_k=how.top_k, top_p=how.top_p, min_p=how.min_p or None,
        typical_p=how.typical_p, repetition_penalty=how.repetition_penalty, no_repeat_ngram_size=how.no_repeat_ngram,
        bad_words_ids=[list(word) for word in how.bad_words] or None, num_beams=1,
        sequence_bias={(i,): by for i, by in how.logit_bias} or None, min_new_tokens=least, eos_token_id=1)
    config._eos_token_tensor = torch.tensor([1])
    every = peer._get_logits_processor(config, input_ids_seq_length=len(prompt), device="cpu")
    return every(torch.tensor([prompt + generated]), logits)


@given(how=SETTINGS, seed=st.integers(0, 10**6), least=st.integers(0, 6))
@settings(max_examples=100, deadline=None)
def test_everything_in_order_equals_transformers(peer, how, seed, least):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(1, 16, generator=generator)
    ids = torch.randint(0, 8, (14,), generator=generator).tolist()
    prompt, generated = ids[:9], ids[9:]
    row = Row(how, prompt, generated, forbidden=frozenset({1} if len(generated) < least else ()))
    assume(settled(steer(logits[0], row), how))
    theirs = processed(peer, how, logits, prompt, generated, least).log_softmax(-1)
    torch.testing.assert_close(filtered(steer(logits[0], row), how), theirs[0], atol=1e-5, rtol=1e-5)


def settled(logits: torch.Tensor, how: Sampling) -> bool:
    """Whether the same tokens survive a hair more and a hair less of the masses: on an edge, rounding decides."""
    more, less = (filtered(logits, replace(how, top_p=min(how.top_p * by, 1.0), typical_p=min(how.typical_p * by, 1.0)))
                  for by in (1 + 1e-5, 1 - 1e-5))
    return more.isneginf().equal(less.isneginf())


def test_presence_and_frequency_count_the_answer_alone():
    row = Row(Sampling(presence_penalty=0.5, frequency_penalty=0.25), prompt=[0, 0, 1], generated=[2, 3, 3])
    torch.testing.assert_close(steer(torch.ones(5), row), torch.tensor([1, 1, 0.25, 0, 1]))
    assert torch.equal(steer(torch.ones(5), Row(row.how, [0, 1, 2, 3], [])), torch.ones(5))


@given(history=st.lists(st.integers(0, 2), max_size=20), n=st.integers(0, 5))
def test_repeated_n_grams_are_found_as_by_reading_everything(history, n):
    said = {tuple(history[i:i + n]) for i in range(len(history) - n + 1)} if n else set()
    assert repeated(history, n) == {i for i in range(3) if (*history[len(history) - n + 1:], i) in said}


def test_bad_words_are_banned_when_only_their_last_token_is_missing():
    how = Sampling(temperature=0, bad_words=((4,), (1, 2), (2, 1, 3)))
    assert kept(steer(torch.zeros(6), Row(how, [1], []))) == [0, 1, 3, 5]
    assert kept(steer(torch.zeros(6), Row(how, [2], [1]))) == [0, 1, 5]


def test_an_end_that_comes_too_early_is_not_chosen():
    logits = torch.tensor([[0.0, 9.0, 1.0], [0.0, 9.0, 1.0]])
    rows = [Row(GREEDY, [0], [], forbidden=frozenset({1})), Row(GREEDY, [0], [])]
    assert [token.id for token in choose(logits, rows)] == [2, 1]


def test_bans_that_leave_nothing_are_lifted_the_end_last():
    """With every 1-gram said, 0 an end and 1 a bad word, only the ban of the n-grams can give way."""
    row = Row(Sampling(no_repeat_ngram=1, bad_words=((1,),)), [0, 1, 2], [], forbidden=frozenset({0}))
    assert kept(steer(torch.zeros(3), row)) == [2]
    assert kept(steer(torch.zeros(2), Row(AS_IS, [0], [], forbidden=frozenset({0, 1})))) == [0, 1]


# --- which token --------------------------------------------------------------------------------------------------

HOWS = [GREEDY, AS_IS, Sampling(0.7), Sampling(0.7, top_k=20), Sampling(0.9, top_p=0.8), Sampling(1.2, 50, 0.9, 0.01),
        Sampling(typical_p=0.6), Sampling(0, repetition_penalty=1.3), Sampling(0.8, top_p=0.95, presence_penalty=0.4),
        Sampling(0.8, no_repeat_ngram=2, logit_bias=((3, -4.0),), bad_words=((1, 2),))]


def rows_of(seed: int) -> list[Row]:
    return [Row(how, [1, 2, 5, 2, 7, 1], [3, 3, 1][:i % 4], seed=seed + i // 3, sample=i % 3,
                forbidden=frozenset({0} if i % 5 == 4 else ()), alternatives=i % 4) for i, how in enumerate(HOWS * 2)]


@pytest.mark.parametrize("vocabulary", [97, 40_009])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_row_alone_is_a_row_among_others_bit_for_bit(vocabulary, threads):
    """40,009 is odd and above the length at which torch begins to share one row between two threads."""
    rows, before = rows_of(vocabulary), torch.get_num_threads()
    logits = 3 * torch.randn(len(rows), vocabulary, generator=torch.Generator().manual_seed(1))
    torch.set_num_threads(threads)
    try:
        together = choose(logits, rows)
        assert [choose(logits[i:i + 1].clone(), [row])[0] for i, row in enumerate(rows)] == together
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(2)).tolist()[:13]
        assert choose(logits[order], [rows[i] for i in order]) == [together[i] for i in order]
    finally:
        torch.set_num_threads(before)


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_whoever_the_neighbours_are_a_row_gets_the_same(data):
    logits = torch.randn(20, 61, generator=torch.Generator().manual_seed(data.draw(st.integers(0, 1000))))
    rows = rows_of(data.draw(st.integers(0, 1000)))
    some = data.draw(st.lists(st.integers(0, 19), min_size=1, max_size=9, unique=True))
    assert choose(logits[some], [rows[i] for i in some])[-1] == choose(logits[some[-1:]], [rows[some[-1]]])[0]


def test_log_probabilities_are_of_what_was_drawn_from_and_of_the_model():
    rows = rows_of(5)
    logits = 2 * torch.randn(len(rows), 50, generator=torch.Generator().manual_seed(3))
    for row, line, token in zip(rows, logits, choose(logits, rows), strict=True):
        steered = steer(line, row)
        own = filtered(steered, row.how) if row.how.temperature else steered.log_softmax(-1)
        assert token.logp == pytest.approx(float(own[token.id]), abs=1e-6) and token.logp > -20
        assert token.raw == pytest.approx(-float(token_nll(line[None], torch.tensor([token.id]))), abs=1e-6)
        best = line.log_softmax(-1).topk(row.alternatives)
        assert [i for i, _ in token.top] == best.indices.tolist()
        assert [logp for _, logp in token.top] == best.values.tolist()


def test_alternatives_are_no_more_than_there_are_the_lowest_ids_first():
    token = choose(torch.tensor([[1.0, 3.0, 3.0, 1.0]]), [Row(GREEDY, [0], [], alternatives=3)])[0]
    assert [i for i, _ in token.top] == [1, 2, 0] and token.id == 1
    assert len(choose(torch.zeros(1, 2), [Row(GREEDY, [0], [], alternatives=9)])[0].top) == 2


def test_draws_follow_the_distribution():
    """10,000 steps of each of two samples; 0.02 is four standard deviations of a share of one half."""
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().expand(10_000, -1)
    for sample_ in range(2):
        chosen = choose(logits, [Row(AS_IS, [0], range(step), seed=7, sample=sample_) for step in range(10_000)])
        shares = torch.tensor([token.id for token in chosen]).bincount(minlength=4) / 10_000
        torch.testing.assert_close(shares, logits[0].exp(), atol=0.02, rtol=0)
        assert shares.max() < 0.55


def test_uniform_numbers_are_their_own_and_below_one():
    numbers = [uniform(seed, sample_, step) for seed in (-1, 0, 2**70) for sample_ in range(10) for step in range(100)]
    assert len(set(numbers)) == 3000 and all(0 <= u < 1 for u in numbers)
    assert abs(sum(numbers) / 3000 - 0.5) < 0.02 and uniform(1, 11, 1) != uniform(11, 1, 1)


@given(weights=WEIGHTS, u=st.floats(0, 1 - 2**-52))
def test_a_draw_is_the_first_whose_mass_is_above_u(weights, u):
    total, mass, expected = sum(weights), 0, None
    for i, weight in enumerate(weights):
        mass += weight
        if expected is None and mass / total > u:
            expected = i
    found = int(draw(log_of(weights, torch.float64)[None], [u]))
    at = sum(weights[:found + 1]) / total
    assert found == expected or min(abs(at - u), abs(at - weights[found] / total - u)) < 1e-12


def test_what_was_filtered_out_is_never_drawn():
    logp = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]])
    assert [int(draw(logp, [u])) for u in (0.0, 0.499, 0.5, 1 - 2**-52)] == [1, 1, 3, 3]


def test_logits_that_are_not_finite_spoil_their_own_row_alone():
    logits = torch.randn(4, 30, generator=torch.Generator().manual_seed(0))
    for how in HOWS:
        rows = [Row(how, [1, 2], [3], sample=i, alternatives=2) for i in range(4)]
        clean = choose(logits, rows)
        spoiled = choose(logits.index_fill(0, torch.tensor([2]), torch.nan), rows)
        assert spoiled[2].raw != spoiled[2].raw and 0 <= spoiled[2].id < 30
        assert spoiled[:2] + spoiled[3:] == clean[:2] + clean[3:]


def test_a_choice_leaves_the_logits_alone():
    logits = torch.randn(len(rows_of(0)), 30, generator=torch.Generator().manual_seed(0))
    before = logits.clone()
    choose(logits, rows_of(0))
    assert torch.equal(logits, before)


# --- what may be asked for ----------------------------------------------------------------------------------------

@pytest.mark.parametrize(("option", "value"), [
    ("temperature", -0.1), ("temperature", float("nan")), ("temperature", float("inf")), ("top_k", -1), ("top_p", 0.0),
    ("top_p", 1.1), ("min_p", -0.1), ("min_p", 1.5), ("typical_p", 0.0), ("repetition_penalty", 0.0),
    ("presence_penalty", float("inf")), ("frequency_penalty", float("nan")), ("no_repeat_ngram", -1),
    ("logit_bias", ((3, float("inf")),)), ("logit_bias", ((-1, 2.0),)), ("bad_words", ((),)),
    ("bad_words", ((4, -2),))])
def test_options_out_of_range_are_named(option, value):
    with pytest.raises(ValueError, match=f"{option} must be .*, got {re.escape(str(value))}"):
        Sampling(**{option: value})


@pytest.mark.parametrize("how", [Sampling(logit_bias=((2, 1.0), (9, 1.0))), Sampling(bad_words=((1,), (2, 9, 3)))])
def test_ids_that_the_model_does_not_have_are_named(how):
    how.check(10)
    AS_IS.check(1)
    with pytest.raises(InputError, match="unknown token") as caught:
        how.check(9)
    assert "id 9" in caught.value.why


def test_plain_is_greedy_and_nothing_else():
    assert GREEDY.plain and Sampling(temperature=0, top_k=5, top_p=0.5).plain
    assert not any(how.plain for how in HOWS[1:])


def test_one_generator_for_all_rows_knows_no_history():
    with pytest.raises(ValueError, match="use choose"):
        sample(torch.zeros(1, 4), Sampling(presence_penalty=1))
    with pytest.raises(ValueError, match="one line a row"):
        choose(torch.zeros(2, 4), [Row(GREEDY, [0], [])])
