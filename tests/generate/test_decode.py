"""Decoding side by side, with a cache, is what reading everything again for each token would give."""

import pytest
import torch

from bloomery.core.errors import InputError
from bloomery.generate.decode import complete
from bloomery.generate.sampling import Sampling
from bloomery.model.config import ModelConfig
from bloomery.model.forest import Forest, roots
from bloomery.model.transformer import Transformer

CONFIG = ModelConfig(vocabulary=30, context=24, depth=2, width=24, heads=4, kv_heads=2, head_width=6, hidden=32)
PROMPTS = [[1, 2, 3], [7], [4, 4, 4, 4, 9, 0, 11, 2, 2], [29, 28]]


@pytest.fixture(scope="module")
def model() -> Transformer:
    """Weights large enough that the likeliest token is clearly so and changes from step to step."""
    made = Transformer(CONFIG, seed=3)
    with torch.no_grad():
        for weight in made.parameters():
            weight.mul_(8 if weight.dim() > 1 else 1)
    return made


@torch.no_grad()
def slow_greedy(model: Transformer, prompt: list[int], ends: set[int], max_tokens: int) -> list[int]:
    ids = list(prompt)
    while len(ids) - len(prompt) < max_tokens and len(ids) <= model.config.context:
        hidden = model(torch.tensor(ids), torch.arange(len(ids)), Forest(roots([len(ids)])))
        ids.append(int(model.logits(hidden[-1]).argmax()))
        if ids[-1] in ends:
            return ids[len(prompt):-1]
    return ids[len(prompt):]


@pytest.mark.parametrize("ends", [set(), {5}, {5, 17, 22, 13}])
def test_greedy_side_by_side_equals_one_by_one_without_a_cache(model, ends):
    together = complete(model, PROMPTS, ends=ends, max_tokens=12)
    assert [c.ids for c in together] == [slow_greedy(model, p, ends, 12) for p in PROMPTS]
    assert [c.ids for c in together] == [complete(model, [p], ends=ends, max_tokens=12)[0].ids for p in PROMPTS]
    assert len({tuple(c.ids) for c in together}) == 4


def test_a_row_that_ends_leaves_the_others_alone(model):
    alone = [complete(model, [p], ends=set(), max_tokens=10)[0].ids for p in PROMPTS]
    first = alone[0]
    at = next(i for i in range(2, 10) if first[i] not in first[:i])
    ends = {first[at]}
    together = complete(model, PROMPTS, ends=ends, max_tokens=10)
    assert together[0].ids == first[:at] and together[0].finish == "stop"
    for whole, got in zip(alone, together, strict=True):
        assert whole[:len(got.ids)] == got.ids and (got.finish == "stop") == bool(ends & set(whole))


def test_a_full_context_ends_with_length(model):
    """The last token is predicted from a full context: prompt and answer are one longer than it."""
    done = complete(model, [[1, 2, 3], list(range(20))], ends=set(), max_tokens=100)
    assert [(len(c.ids), c.finish) for c in done] == [(22, "length"), (5, "length")]
    assert done[1].ids == slow_greedy(model, list(range(20)), set(), 100)


def test_enough_tokens_end_with_length(model):
    assert [(len(c.ids), c.finish) for c in complete(model, PROMPTS, ends=set(), max_tokens=3)] == [(3, "length")] * 4


@pytest.mark.parametrize("prompt", [[], list(range(24))])
def test_prompts_that_cannot_be_continued_are_named(model, prompt):
    with pytest.raises(InputError) as caught:
        complete(model, [[1], prompt], ends=set(), max_tokens=3)
    assert caught.value.where == "prompt 1" and f"{len(prompt)} tokens" in caught.value.why


def test_seeds_make_samples_reproducible(model):
    how = Sampling(temperature=1.5)
    one, same, other = (complete(model, PROMPTS, ends={5}, max_tokens=10, how=how, seed=s) for s in (1, 1, 2))
    assert one == same != other


def test_equal_prompts_draw_different_samples(model):
    done = complete(model, [[7, 1]] * 40, ends=set(), max_tokens=6, how=Sampling(temperature=1.5))
    assert len({tuple(c.ids) for c in done}) > 30


def test_no_prompts_no_completions(model):
    assert complete(model, [], ends=set(), max_tokens=3) == []


def test_the_state_of_the_generator_that_training_draws_from_is_left_alone(model):
    before = torch.get_rng_state()
    complete(model, PROMPTS, ends=set(), max_tokens=3, how=Sampling())
    assert torch.equal(before, torch.get_rng_state())
