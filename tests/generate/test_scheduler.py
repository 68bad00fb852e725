"""Slots are shared out in order, prefixes are found by their ids, and whatever happens nothing leaks."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bloomery.generate.request import Request, Ticket
from bloomery.generate.sampling import Token
from bloomery.generate.scheduler import Scheduler, Slot

CHUNK = 4
TOKEN = Token(1, -1.0, -1.0)


def ticket(prompt, n: int = 1, max_tokens: int = 2, **options) -> Ticket:
    return Ticket(Request(tuple(prompt), max_tokens, n=n, **options))


def read(scheduler: Scheduler, slot: Slot) -> int:
    """Read one chunk as the engine does; how many tokens came from a cache."""
    sample = slot.sample
    _, start = scheduler.prefix(slot)
    found = start - sample.read
    scheduler.filled(slot, min(start + scheduler.chunk, len(sample.request.prompt)))
    return found


def read_all(scheduler: Scheduler, slot: Slot) -> int:
    found = 0
    while not slot.sample.ready:
        found += read(scheduler, slot)
    return found


class Rehearsal:
    """An engine without a model: one chunk, then one token for everyone who is ready."""

    def __init__(self, slots: int, *, reuse: bool = True):
        self.scheduler = Scheduler(slots, CHUNK, reuse=reuse)
        self.began: list[tuple[Ticket, int]] = []

    def step(self) -> None:
        scheduler = self.scheduler
        scheduler.admit()
        if slot := next(iter(scheduler.readers()), None):
            source, start = scheduler.prefix(slot)
            assert source.held[:start] == slot.sample.request.prompt[:start] and start % CHUNK == 0
            assert slot.sample.read <= start < len(slot.sample.request.prompt)
            read(scheduler, slot)
        for slot in scheduler.taken:
            sample = slot.sample
            if sample.ticket.paused:
                continue
            if not sample.said and not sample.ready and any(s.ready for s in self.siblings(sample)):
                assert scheduler.holder(sample.request.prompt)
                scheduler.filled(slot, len(sample.request.prompt))
            if sample.ready:
                if not sample.said:
                    self.began.append((sample.ticket, sample.index))
                sample.said.append(TOKEN.id)
                if sample.ticket.add(sample.index, TOKEN, full=False).finish:
                    scheduler.release(slot)

    def siblings(self, sample):
        return [slot.sample for slot in self.scheduler.taken if slot.sample.ticket is sample.ticket]


def test_those_who_have_waited_longest_begin_first():
    engine = Rehearsal(2)
    tickets = [ticket([i] * 3) for i in range(5)]
    for one in tickets:
        engine.scheduler.submit(one)
    while not engine.scheduler.resting:
        engine.step()
    assert engine.began == [(one, 0) for one in tickets]


def test_a_prompt_goes_on_from_the_longest_prefix_of_whole_chunks():
    scheduler = Scheduler(3, CHUNK)
    for prompt in (range(10), [*range(8), 99, 98, 97]):
        scheduler.submit(ticket(prompt))
    scheduler.admit()
    first, second, third = scheduler.slots
    assert read_all(scheduler, first) == 0
    assert scheduler.prefix(second) == (first, 8) and read_all(scheduler, second) == 8
    scheduler.submit(ticket([*range(5), 50, 51, 52, 53]))
    scheduler.admit()
    assert scheduler.prefix(third)[1] == 4


def test_the_last_prompt_token_is_always_read():
    """A prompt of two whole chunks that is known entirely: the second chunk is read again."""
    scheduler = Scheduler(2, CHUNK)
    for _ in range(2):
        scheduler.submit(ticket(range(8)))
    scheduler.admit()
    one, two = scheduler.slots
    read_all(scheduler, one)
    assert scheduler.prefix(two) == (one, 4)


def test_a_conversation_goes_on_where_it_was_and_a_stranger_takes_the_oldest_slot():
    scheduler = Scheduler(3, CHUNK)
    for prompt in (range(8), range(20, 28)):
        scheduler.submit(ticket(prompt))
        scheduler.admit()
        read_all(scheduler, scheduler.taken[0])
        scheduler.release(scheduler.taken[0])
    scheduler.submit(ticket([*range(20, 28), 5, 6]))
    scheduler.admit()
    assert scheduler.taken == [scheduler.slots[1]] and scheduler.prefix(scheduler.slots[1])[1] == 8
    scheduler.submit(ticket([*range(4), 60, 61, 62, 63, 64]))        # shares a chunk, and would destroy another
    scheduler.submit(ticket([70, 71]))
    scheduler.admit()
    assert scheduler.slots[2].sample.request.prompt[4] == 60 and scheduler.prefix(scheduler.slots[2])[1] == 4
    assert scheduler.slots[0].sample.request.prompt == (70, 71)


def test_without_reuse_everything_is_read_and_so_is_a_prompt_that_is_scored():
    for options, asked in (({"reuse": False}, {}), ({}, {"prompt_logps": True})):
        scheduler = Scheduler(2, CHUNK, **options)
        for _ in range(2):
            scheduler.submit(ticket(range(10), **asked))
        scheduler.admit()
        assert [read_all(scheduler, slot) for slot in scheduler.slots] == [0, 0]


def test_prompts_are_read_in_turns():
    scheduler = Scheduler(2, CHUNK)
    for first in (0, 100):
        scheduler.submit(ticket(range(first, first + 3 * CHUNK)))
    scheduler.admit()
    turns = []
    while slot := next(iter(scheduler.readers()), None):
        turns.append(slot.number)
        read(scheduler, slot)
    assert turns == [0, 1, 0, 1, 0, 1]


def test_of_n_samples_one_reads_and_the_others_need_not_have_a_slot_yet():
    engine = Rehearsal(2)
    many, after = ticket(range(9), n=5), ticket([50])
    engine.scheduler.submit(many)
    engine.scheduler.submit(after)
    engine.scheduler.admit()
    assert [slot.sample.index for slot in engine.scheduler.taken] == [0, 1]
    assert engine.scheduler.readers()[0].number == 0
    while not engine.scheduler.resting:
        engine.step()
    assert engine.began == [*((many, i) for i in range(5)), (after, 0)] and many.finished and after.finished


def test_who_is_paused_rests_and_keeps_its_slot():
    engine = Rehearsal(1)
    one = ticket(range(9), max_tokens=3)
    engine.scheduler.submit(one)
    engine.step()
    one.paused = True
    assert engine.scheduler.resting and engine.scheduler.readers() == []
    engine.step()
    assert not engine.scheduler.free
    one.paused = False
    while not engine.scheduler.resting:
        engine.step()
    assert one.finished and engine.scheduler.free


def test_when_closing_only_who_has_begun_comes_in():
    engine = Rehearsal(1)
    begun, new = ticket([1, 2], n=3), ticket([3])
    engine.scheduler.submit(begun)
    engine.step()
    engine.scheduler.submit(new)
    engine.scheduler.closing = True
    assert not engine.scheduler.empty
    while not engine.scheduler.resting:
        engine.step()
    assert begun.finished and not new.finished and engine.scheduler.empty


ACTION = st.one_of(
    st.tuples(st.just("submit"), st.integers(1, 12), st.integers(0, 2), st.integers(1, 3)),
    st.tuples(st.sampled_from(["cancel", "pause", "resume"]), st.integers(0, 30)),
    st.tuples(st.just("step"), st.integers(1, 6)))


@settings(deadline=None)
@given(slots=st.integers(1, 4), reuse=st.booleans(), actions=st.lists(ACTION, max_size=40))
def test_whatever_happens_everyone_is_served_and_every_slot_is_free_at_the_end(slots, reuse, actions):
    engine, tickets, cancelled = Rehearsal(slots, reuse=reuse), [], set()
    for name, *values in actions:
        if name == "submit":
            length, kind, n = values
            tickets.append(ticket([kind] * length, n=min(n, slots)))
            engine.scheduler.submit(tickets[-1])
        elif name == "step":
            for _ in range(values[0]):
                engine.step()
        elif tickets:
            one = tickets[values[0] % len(tickets)]
            if name == "cancel":
                cancelled.add(one)
                assert all(slot.sample is None for slot in engine.scheduler.withdraw(one))
            else:
                one.paused = name == "pause"
        placed = [slot.sample for slot in engine.scheduler.taken]
        assert len({(sample.ticket, sample.index) for sample in placed}) == len(placed)
    for one in tickets:
        one.paused = False
    for _ in range(1000):
        if engine.scheduler.resting:
            break
        engine.step()
    assert len(engine.scheduler.free) == slots and not engine.scheduler.waiting
    assert all(one.finished for one in tickets if one not in cancelled)


@pytest.mark.parametrize("sizes", [(0, 4), (2, 0)])
def test_sizes_out_of_range_are_named(sizes):
    with pytest.raises(ValueError, match="must be >= 1"):
        Scheduler(*sizes)
