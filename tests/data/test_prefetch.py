"""Batches made ahead are the batches; errors come with their step; the thread ends."""

import threading
from types import SimpleNamespace

import pytest

from bloomery.data.prefetch import Prefetched
from bloomery.data.stream import MicroBatches


def asked(log: list, *, fails_at: int | None = None):
    """A stream of three micro-batches a step that notes what is built and by which thread."""
    def stream(step: int) -> MicroBatches:
        if step == fails_at:
            raise OSError(f"step {step} cannot be read")

        def build(index: int) -> SimpleNamespace:
            log.append((step, index, threading.current_thread().name))
            return SimpleNamespace(step=step, index=index, count=1.0)

        return MicroBatches(build, [1.0] * 3)

    return stream


def test_the_order_and_the_content_do_not_change():
    plain = [[(b.step, b.index) for b in asked([])(step)] for step in (0, 1, 2, 7, 3)]
    with Prefetched(asked([]), steps=8) as ahead:
        assert [[(b.step, b.index) for b in ahead(step)] for step in (0, 1, 2, 7, 3)] == plain


def test_a_thread_makes_the_next_steps_and_none_beyond_the_last():
    log = []
    with Prefetched(asked(log), steps=4) as ahead:
        for step in range(4):
            assert [b.step for b in ahead(step)] == [step] * 3
    assert sorted({step for step, _, _ in log}) == [0, 1, 2, 3] and len(log) == 12
    assert {name for _, _, name in log} == {"prefetch_0"}


def test_a_rank_makes_only_its_own():
    log = []
    with Prefetched(asked(log), steps=1, own=lambda count: range(count)[1:2]) as ahead:
        batches = ahead(0)
        assert [index for _, index, _ in log] == [1] and len(batches) == 3 and batches.count == 3
        assert batches[-1].index == 2                           # another's is made when asked for


def test_an_error_appears_when_its_step_is_asked_for():
    with Prefetched(asked([], fails_at=2), steps=5) as ahead:
        assert ahead(0)[0].step == 0 and ahead(1)[0].step == 1
        with pytest.raises(OSError, match="step 2 cannot be read"):
            ahead(2)
        assert ahead(3)[0].step == 3


def test_the_thread_ends_with_the_block_even_after_an_error():
    before = threading.active_count()
    with pytest.raises(KeyError), Prefetched(asked([]), steps=100, ahead=50) as ahead:
        ahead(0)
        raise KeyError
    assert threading.active_count() == before
