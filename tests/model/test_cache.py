"""Decoding with a cache gives the logits of reading everything again."""

import pytest
import torch

from bloomery.model.cache import Cache
from bloomery.model.config import ModelConfig
from bloomery.model.forest import Forest, roots
from bloomery.model.transformer import Transformer

CONFIG = ModelConfig(vocabulary=31, context=40, depth=3, width=24, heads=4, kv_heads=2, head_width=10, hidden=40)


def uncached(model: Transformer, sequences: list[list[int]]) -> list[torch.Tensor]:
    ids = torch.tensor([i for s in sequences for i in s])
    positions = torch.cat([torch.arange(len(s)) for s in sequences])
    lengths = [len(s) for s in sequences]
    return list(model.logits(model(ids, positions, Forest(roots(lengths)))).split(lengths))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4), (torch.bfloat16, 0.05)])
@pytest.mark.parametrize("scoring", [{}, {"window": 4}, {"softcap": 0.5}, {"window": 3, "softcap": 2.0}], ids=str)
@torch.no_grad()
def test_cached_logits_equal_uncached_ones(dtype, tolerance, scoring):
    """Three slots fed in different chunks, in changing company and order."""
    config = CONFIG.model_copy(update=scoring)
    model = Transformer(config, seed=1, compute=dtype).to(dtype)
    sequences = [torch.randint(0, 31, (20,), generator=torch.Generator().manual_seed(i)).tolist() for i in range(3)]
    cache, got = Cache(CONFIG, 3, 20, dtype=dtype), [[], [], []]
    for slots, counts in [([0, 1, 2], [5, 1, 9]), ([2, 0], [1, 1]), ([1], [7]), ([0, 1, 2], [1, 1, 1]),
                          ([1, 0], [3, 13]), ([2, 1], [9, 8])]:
        fed = [sequences[slot][cache.lengths[slot]:cache.lengths[slot] + count]
               for slot, count in zip(slots, counts, strict=True)]
        positions = cache.feed(slots, counts)
        hidden = model(torch.tensor([i for ids in fed for i in ids]), positions, cache)
        cache.advance()
        for slot, logits in zip(slots, model.logits(hidden).split(counts), strict=True):
            got[slot].append(logits)
    assert cache.lengths == [20, 20, 20]
    for cached, plain in zip(got, uncached(model, sequences), strict=True):
        torch.testing.assert_close(torch.cat(cached), plain, atol=tolerance, rtol=0)


@torch.no_grad()
def test_a_cleared_slot_forgets():
    model, cache = Transformer(CONFIG, seed=2), Cache(CONFIG, 1, 8)
    for ids in ([3, 4, 5, 6, 7], [9, 8]):
        cache.clear(0)
        hidden = model(torch.tensor(ids), cache.feed([0], [len(ids)]), cache)
        cache.advance()
    torch.testing.assert_close(model.logits(hidden), uncached(model, [[9, 8]])[0], atol=1e-5, rtol=0)


def test_too_many_tokens_are_refused_before_anything_is_written():
    cache = Cache(CONFIG, 2, 6)
    cache.feed([0, 1], [4, 6])
    cache.advance()
    before = cache.keys.clone()
    with pytest.raises(ValueError, match="capacity 6 exceeded in slot 0: 4 tokens held, 3 more"):
        cache.feed([0], [3])
    assert cache.lengths == [4, 6] and torch.equal(cache.keys, before)
    assert cache.feed([0], [2]).tolist() == [4, 5]


@torch.no_grad()
def test_padding_belongs_to_no_slot_and_changes_nothing():
    model, (plain, wide) = Transformer(CONFIG, seed=1), (Cache(CONFIG, 3, 20) for _ in range(2))
    for ids in ([3, 4], [5, 6]):
        expected = model(torch.tensor(ids), plain.feed([0, 2], [1, 1]), plain)
        found = model(torch.tensor([*ids, 0, 0, 0]), wide.feed([0, 2], [1, 1], padding=3), wide)
        plain.advance()
        wide.advance()
        torch.testing.assert_close(found[:2], expected, atol=1e-5, rtol=0)
    assert wide.lengths == [2, 0, 2] and torch.allclose(wide.keys, plain.keys, atol=1e-5)


def test_the_size_of_a_cache_is_what_the_configuration_says():
    cache = Cache(CONFIG, 5, CONFIG.context, dtype=torch.bfloat16)
    assert cache.keys.nbytes + cache.values.nbytes == CONFIG.cache_bytes(5)


@torch.no_grad()
def test_a_copied_prefix_goes_on_as_its_source_would():
    model, cache = Transformer(CONFIG, seed=2), Cache(CONFIG, 3, 20)
    model(torch.tensor([3, 4, 5, 6, 7]), cache.feed([1], [5]), cache)
    cache.advance()
    cache.copy(1, 2, 3)
    hidden = model(torch.tensor([9, 9]), cache.feed([1, 2], [1, 1]), cache)
    cache.advance([2])
    assert cache.lengths == [0, 5, 4]
    expected = uncached(model, [[3, 4, 5, 6, 7, 9], [3, 4, 5, 9]])
    for row, whole in zip(model.logits(hidden), expected, strict=True):
        torch.testing.assert_close(row, whole[-1], atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="slot 0 holds 0 tokens, not 1"):
        cache.copy(0, 1, 1)


@torch.no_grad()
def test_longer_neighbours_do_not_change_a_bit():
    """What lies beyond a slot's own length stands at the end of every sum and weighs exactly nothing."""
    config = CONFIG.model_copy(update={"context": 400})
    model, found = Transformer(config, seed=2), []
    for neighbour in (1, 70, 390):
        cache = Cache(config, 2, 400)
        model(torch.tensor([3, 4, 5]), cache.feed([0], [3]), cache)
        cache.advance()
        model(torch.arange(neighbour) % 31, cache.feed([1], [neighbour]), cache)
        cache.advance()
        found.append(model(torch.tensor([9, 9]), cache.feed([0, 1], [1, 1]), cache)[0])
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


@torch.no_grad()
def test_a_wiped_slot_is_a_number_again():
    model, cache = Transformer(CONFIG, seed=2), Cache(CONFIG, 1, 8)
    model(torch.tensor([3, 4]), cache.feed([0], [2]), cache)
    cache.advance()
    cache.keys[0, 0, :, 1], cache.values[0, 0, :, 1] = torch.nan, torch.inf
    cache.wipe(0)
    hidden = model(torch.tensor([9]), cache.feed([0], [1]), cache)
    torch.testing.assert_close(model.logits(hidden), uncached(model, [[9]])[0], atol=1e-5, rtol=0)
