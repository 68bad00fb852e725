"""The self-test says what is so: it passes where bits are the same, and names what is not."""

import pytest
import torch

from bloomery.generate import engine as engine_file
from bloomery.generate.determinism import Report, self_test, sizes
from bloomery.generate.engine import Engine
from bloomery.generate.request import Request
from bloomery.model.cache import Cache
from bloomery.model.config import ModelConfig
from bloomery.model.transformer import Transformer

CONFIG = ModelConfig(vocabulary=60, context=40, depth=2, width=32, heads=4, kv_heads=2, head_width=8, hidden=48)


def engine(kind: type[Transformer] = Transformer, **options) -> Engine:
    """Weights so large that attention counts for something."""
    model = kind(CONFIG, seed=1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(4 if weight.dim() > 1 else 1)
    return Engine(model, **{"slots": 4, "chunk": 8} | options)


@pytest.mark.parametrize("options", [{}, {"slots": 1}, {"reuse": False}, {"context": 5}], ids=str)
def test_an_honest_engine_passes(options):
    report = self_test(engine(**options))
    assert report == Report(slots=True, neighbours=True, cached=True, fixed=False, threads=1) and report.ok
    assert report.why.endswith("cached or not (1 thread)")


def test_it_leaves_no_trace():
    one = engine()
    asked = Request((1, 2, 3), 5)
    before = engine().generate([asked])
    self_test(one)
    assert not one.stats and one.free_slots == 4
    assert one.generate([asked]) == before and one.stats["cached_tokens"] == 0


class Lopsided(Cache):
    """Slots of the second half round differently, as some batched products do with two threads."""

    def attend(self, *args, **options):
        out = super().attend(*args, **options)
        if max(self._counts) == 1:
            out[[place for place, slot in enumerate(self._slots) if slot > 1]] *= 1 + 1e-5
        return out


class Forgetful(Cache):
    """A copied or kept prefix is not quite what was read."""

    def truncate(self, slot, tokens):
        super().truncate(slot, tokens)
        self.values[:, slot, :, :tokens] *= 1 + 1e-6


class Crowded(Transformer):
    """A row's result depends on how many neighbours it has."""

    def forward(self, ids, positions, memory):
        hidden = super().forward(ids, positions, memory)
        return hidden * (1 + 1e-6 * (ids > 0).sum())


class Uneven(Transformer):
    """It depends on the size of the batch alone, as the kernels of some processors do."""

    def forward(self, ids, positions, memory):
        return super().forward(ids, positions, memory) * (1 + 1e-6 * len(ids))


def test_a_slot_that_rounds_differently_is_found(monkeypatch):
    monkeypatch.setattr(engine_file, "cache_for", lambda model, *how, **more: Lopsided(model.config, *how, **more))
    report = self_test(engine())
    assert not report.ok and not report.slots and "other bits in another slot" in report.why


def test_a_prefix_that_is_not_what_was_read_is_found(monkeypatch):
    monkeypatch.setattr(engine_file, "cache_for", lambda model, *how, **more: Forgetful(model.config, *how, **more))
    report = self_test(engine())
    assert not report.ok and not report.cached and "after a cached prefix" in report.why


def test_neighbours_that_matter_are_found():
    report = self_test(engine(Crowded))
    assert not report.ok and not report.neighbours and "beside others" in report.why


def test_where_batches_of_different_sizes_differ_all_slots_are_decoded_always():
    one = engine(Uneven, slots=20)
    report = self_test(one)
    assert report.ok and report.fixed and one.fixed and report.why.endswith("(1 thread, all slots in every step)")
    asked = Request((1, 2, 3), 4)
    assert one.generate([asked]) == one.generate([Request((4, 5), 9, n=18), asked])[1:]


def test_half_of_the_slots_and_half_of_these_are_tried_down_to_one_multiple_of_rows():
    assert [sizes(n) for n in (1, 8, 20, 32)] == [[1], [8], [5, 10, 20], [8, 16, 32]]


def test_a_busy_engine_and_a_tiny_context_are_refused():
    busy = engine()
    busy.submit(Request((1,), 3))
    with pytest.raises(ValueError, match="busy"):
        self_test(busy)
    with pytest.raises(ValueError, match="context of 4 tokens leaves nothing"):
        self_test(engine(context=4))
