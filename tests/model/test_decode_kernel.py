"""The kernel of decoding steps: the same attention as the three products, whoever's keys it reads."""

import pytest
import torch

from bloomery.core.kernels import kernel
from bloomery.model.cache import Cache, kept_as
from bloomery.model.config import ModelConfig
from bloomery.model.dot_product import PLAIN, Scoring
from bloomery.model.positions import rope, rope_frequencies, rope_table
from bloomery.model.transformer import Transformer

pytest.importorskip("numba")
CONFIG = ModelConfig(vocabulary=60, context=256, depth=2, width=48, heads=6, kv_heads=2, head_width=8, hidden=48)
WIDE = CONFIG.model_copy(update={"head_width": 32})             # its keys are scored sixteen at a time
CLOSE = {torch.float32: 2e-6, torch.bfloat16: 1e-2}


def filled(lengths: list[int], *, dtype: torch.dtype = torch.float32, before: int = 0,
           config: ModelConfig = CONFIG) -> Cache:
    """Slots that hold so many tokens of noise."""
    cache = Cache(config, len(lengths), 200, dtype=dtype, before=before)
    noise = torch.Generator().manual_seed(3)
    for kept in (cache.keys, cache.values):
        kept.copy_(torch.randn(kept.shape, generator=noise))
        kept[:, :, :, :before] = kept[:, :1, :, :before]
    cache.lengths = list(lengths)
    return cache


def step(cache: Cache, slots: list[int], *, kernel: bool = True, scoring: Scoring = PLAIN, padding: int = 0
         ) -> torch.Tensor:
    """What one more token of each slot sees in every layer, (L, B, H, E); nothing is advanced."""
    noise = torch.Generator().manual_seed(5)
    shape, width = (CONFIG.depth, len(cache.lengths), 10), cache.keys.shape[-1]
    rows = torch.randn(*shape, width, generator=noise).to(cache.keys.dtype)[:, slots]
    rows = torch.cat((rows, rows.new_ones(CONFIG.depth, padding, 10, width)), 1)
    kept, cache.kernel = cache.kernel, cache.kernel if kernel else None
    cache.feed(slots, [1] * len(slots), padding=padding)
    out = [cache.attend(layer, q, k, v, scoring) for layer, row in enumerate(rows)
           for q, k, v in [row.split((6, 2, 2), 1)]]
    cache.kernel = kept
    return torch.stack(out)


@pytest.mark.parametrize("config", [CONFIG, WIDE], ids=["narrow", "wide"])
@pytest.mark.parametrize("dtype", CLOSE, ids=str)
@pytest.mark.parametrize("scoring", [Scoring(), Scoring(window=5), Scoring(window=64), Scoring(softcap=2.0),
                                     Scoring(scale=0.7)], ids=["plain", "near", "window", "capped", "scaled"])
def test_it_is_the_attention_of_three_products(dtype, scoring, config):
    for lengths in ([0], [1, 63, 64, 65], [127, 128, 199, 0, 5, 16, 15]):
        slots = [*range(len(lengths))][::-1]
        got, expected = (step(filled(lengths, dtype=dtype, config=config), slots, scoring=scoring, kernel=kernel)
                         for kernel in (True, False))
        assert got.dtype == dtype and (got.float() - expected.float()).abs().max() < CLOSE[dtype]


@pytest.mark.parametrize("pairs", [4, 2])
@pytest.mark.parametrize("dtype", CLOSE, ids=str)
def test_turning_in_the_kernel_is_turning_before_it(dtype, pairs):
    cache, apart = filled([70, 3], dtype=dtype), filled([70, 3], dtype=dtype)
    noise = torch.Generator().manual_seed(7)
    qkv = torch.randn(8, 10, 8, generator=noise).to(dtype)
    cos, sin = rope_table(cache.feed([0, 1], [1, 1], padding=6), rope_frequencies(2 * pairs, 100.0), dtype)
    apart.feed([0, 1], [1, 1], padding=6)
    got = cache.attend_turned(1, qkv, cos, sin, PLAIN)
    q, k = rope(qkv[:, :8], cos, sin).split((6, 2), 1)
    expected = apart.attend(1, q, k, qkv[:, 8:], PLAIN)
    assert (got.float() - expected.float()).abs().max() < CLOSE[dtype] and not got[2:].any()
    assert (cache.keys.float() - apart.keys.float()).abs().max() < 2 * CLOSE[dtype]
    assert cache.values.equal(apart.values) and not cache.keys[1, 0, :, 70].equal(qkv[0, 6:8])


def test_numbers_are_rounded_to_the_nearest_bfloat16():
    values = torch.randn(2000, generator=torch.Generator().manual_seed(1)).bfloat16()
    cache, row = Cache(CONFIG, 1, 300, dtype=torch.bfloat16), torch.ones(1, 10, 8, dtype=torch.bfloat16)
    for first in range(0, 2000, 8):
        row[0, 6] = values[first:first + 8]
        angle = cache.feed([0], [1])[:, None, None] * torch.tensor([1.0, 0.1, 0.01, 0.001])
        cos, sin = angle.cos().bfloat16(), angle.sin().bfloat16()
        cache.attend_turned(0, row, cos, sin, PLAIN)
        cache.advance()
    angle = torch.arange(250.)[:, None] * torch.tensor([1.0, 0.1, 0.01, 0.001])
    cos, sin = angle.cos().bfloat16().float(), angle.sin().bfloat16().float()
    a, b = values.view(250, 2, 4).float().unbind(1)
    exact = torch.cat((a * cos - b * sin, b * cos + a * sin), -1)
    kept = cache.keys[0, 0, 0, :250]
    assert (kept == exact.bfloat16()).float().mean() > 0.99     # not all: products are fused with sums
    assert ((kept.float() - exact).abs() <= exact.abs() * 2**-8 + 1e-6).all()


def test_scores_of_any_size_keep_their_weights():
    big = Scoring(scale=300.0)
    got, expected = (step(filled([70, 3]), [0, 1], kernel=kernel, scoring=big) for kernel in (True, False))
    assert (got - expected).abs().max() < 1e-4 and torch.isfinite(got).all()


def test_a_key_that_is_no_number_is_not_hidden():
    cache = filled([70, 70])
    cache.keys[:, 0, :, 10, 3] = torch.nan
    got = step(cache, [0, 1])
    assert got[:, 0].isnan().all() and got[:, 1].isfinite().all()


def test_rows_of_padding_see_nothing_and_change_nothing():
    got = step(filled([9, 30]), [0, 1], padding=6)
    assert not got[:, 2:].any() and got[:, :2].equal(step(filled([9, 30]), [0, 1]))


@pytest.fixture(params=[(0, CONFIG), (3, CONFIG), (0, WIDE)], ids=["", "behind a prefix", "wide"])
def both(request):
    """A cache that lends and one that copies, of the same numbers; slot 0 holds 150 tokens."""
    before, config = request.param
    return [filled([150, 0, 0, 0, 0, *[0] * 6], before=before, config=config) for _ in range(2)]


def give(both, *what: tuple[int, int, int]) -> None:
    for source, target, tokens in what:
        both[0].lend(source, target, tokens)
        both[1].copy(source, target, tokens)


def grown(cache: Cache, slots: list[int]) -> torch.Tensor:
    """What slots see after three more tokens, of each slot its own."""
    for _ in range(3):
        seen = step(cache, slots)
        cache.advance()
    return seen


def test_a_borrower_gets_the_bits_of_a_copy(both):
    give(both, *((0, slot, 130) for slot in range(1, 11)))
    assert both[0].lenders == [0] * 11 and both[0].lent == [0] + [128] * 10 and both[0].lengths == both[1].lengths
    for slots in ([*range(11)], [7], [3, 0]):
        assert grown(both[0], slots).equal(grown(both[1], slots))


def test_borrowers_keep_what_a_slot_forgets(both):
    give(both, (0, 1, 130), (0, 2, 65), (0, 3, 149), (0, 4, 20))
    for cache in both:
        cache.truncate(0, 70)
    lent = both[0]
    assert lent.lenders == [0, 1, 0, 1, *range(4, 11)] and lent.lent[:5] == [0, 0, 64, 128, 0]
    for cache in both:
        cache.wipe(0)
    assert lent.lenders[2] == 2 and grown(lent, [1, 2, 3, 4]).equal(grown(both[1], [1, 2, 3, 4]))


def test_a_borrower_can_lend_be_cut_and_go_on_reading(both):
    give(both, (0, 1, 140), (1, 2, 135), (2, 3, 70))
    for cache in both:
        cache.truncate(1, 60)
        cache.truncate(0, 10)
    assert grown(both[0], [1, 2, 3]).equal(grown(both[1], [1, 2, 3]))
    model = Transformer(CONFIG.model_copy(update={"head_width": both[0].keys.shape[-1]}), seed=1)
    hidden = [model(torch.arange(5), cache.feed([2], [5]), cache) for cache in both]
    assert hidden[0].equal(hidden[1]) and both[0].lent[2] == 0


def test_what_a_cpu_computes_is_what_it_keeps():
    assert kept_as(torch.bfloat16, torch.device("cpu")) == torch.bfloat16
    assert kept_as(torch.float64, torch.device("cpu")) == torch.float64
    assert Cache(CONFIG, 1, 8, dtype=torch.float64).kernel is None


def test_without_numba_steps_are_three_products(monkeypatch):
    monkeypatch.setattr("bloomery.core.kernels.find_spec", lambda name: None)
    kernel.cache_clear()
    try:
        cache = Cache(CONFIG, 2, 8)
        assert cache.kernel is None and kept_as(torch.bfloat16, torch.device("cpu")) == torch.float32
        cache.lend(0, 1, 0)
        assert cache.lenders == [0, 1]
    finally:
        kernel.cache_clear()
