"""The thread between coroutines and engines: order, backpressure, cancelling, and failures that stay where they are."""

import asyncio
import threading

import pytest

from bloomery.core.errors import InputError
from bloomery.generate.request import Event, Request, Ticket
from bloomery.generate.sampling import Token
from bloomery.serve.worker import EngineFault, TooSlow, Worker


class Clock:
    """An engine that writes the number of the step, one token a request a step, until `max_tokens`."""

    def __init__(self):
        self.tickets, self.ticks, self.threads, self.cancelled = [], 0, set(), 0

    @property
    def busy(self):
        return any(not ticket.paused for ticket in self.tickets)

    def submit(self, request):
        if not request.prompt:
            raise InputError("an empty prompt")
        ticket = Ticket(request)
        self.tickets.append(ticket)
        return ticket

    def cancel(self, ticket):
        self.cancelled += 1
        self.tickets.remove(ticket)

    def step(self):
        self.threads.add(threading.get_ident())
        self.ticks += 1
        events = []
        for ticket in list(self.tickets):
            if ticket.request.prompt == (13,):
                raise RuntimeError("unlucky")
            if not ticket.paused:
                events.append(ticket.add(0, Token(self.ticks, -1.0, -1.0), full=False))
                if ticket.request.prompt == (7,) and len(ticket.completions[0].tokens) == 2:
                    ticket.error = "a request of its own kind"
                    events.append(ticket.end(0, "error"))
                if ticket.finished:
                    self.tickets.remove(ticket)
        return events


def asked(prompt=1, tokens=5):
    return Request(prompt=(prompt,) if prompt else (), max_tokens=tokens)


def serve(test, **options):
    """Run a coroutine function of (worker, engine) with a worker of one engine."""
    engine = Clock()
    worker = Worker({"a": engine, "b": Clock()}, **options)

    async def run():
        worker.start()
        try:
            return await asyncio.wait_for(test(worker, engine), 20)
        finally:
            worker.stop()
    return asyncio.run(run())


async def until(condition):
    while not condition():
        await asyncio.sleep(0.001)


def test_events_come_in_order_from_another_thread():
    async def test(worker, engine):
        streams = [await worker.submit("a", asked(tokens=9)) for _ in range(3)]
        found = [[event async for event in stream] for stream in streams]
        assert engine.threads and threading.get_ident() not in engine.threads
        return found
    for events in serve(test):
        ids = [event.tokens[0].id for event in events]
        assert len(ids) == 9 and ids == sorted(ids) and [event.finish for event in events[-2:]] == [None, "length"]


def test_what_cannot_be_served_is_refused_at_once():
    async def test(worker, engine):
        with pytest.raises(InputError, match="empty"):
            await worker.submit("a", asked(prompt=0))
        assert worker.open == {"a": 0, "b": 0} and worker.healthy
    serve(test)


def test_a_cancelled_request_leaves_within_a_step():
    async def test(worker, engine):
        stream = await worker.submit("a", asked(tokens=10**9))
        assert isinstance(await anext(stream), Event)
        stream.cancel()
        stream.cancel()
        ticks = engine.ticks
        await until(lambda: not engine.tickets)
        assert [event async for event in stream] == [] and engine.cancelled == 1
        assert worker.open["a"] == 0 and engine.ticks - ticks < 10**4
    serve(test)


def test_a_request_whose_caller_is_cancelled_while_it_is_handed_over():
    async def test(worker, engine):
        tasks = [asyncio.create_task(worker.submit("a", asked(tokens=10**9))) for _ in range(20)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await worker.call("a", lambda engine: None)
        assert engine.tickets == [] and worker.open["a"] == 0
    serve(test)


def test_a_slow_reader_makes_its_request_rest_and_loses_nothing():
    async def test(worker, engine):
        slow = await worker.submit("a", asked(tokens=500))
        await until(lambda: slow.ticket.paused)
        await asyncio.sleep(0.02)
        assert len(slow.ticket.completions[0].tokens) == len(slow._events) == 9
        fast = await worker.submit("a", asked(tokens=5))
        assert len([event async for event in fast]) == 5         # others go on
        return len([event async for event in slow])
    assert serve(test, room=8) == 500


def test_a_reader_who_stays_away_loses_the_slot():
    async def test(worker, engine):
        stream = await worker.submit("a", asked(tokens=10**9))
        await until(lambda: stream.over)
        await until(lambda: not engine.tickets)
        with pytest.raises(TooSlow):
            await anext(stream)
        assert len(stream._events) == 0 and worker.healthy
    serve(test, room=4, patience=0.05)


def test_a_request_that_fails_fails_alone():
    async def test(worker, engine):
        good, bad = await worker.submit("a", asked(tokens=50)), await worker.submit("a", asked(prompt=7, tokens=50))
        with pytest.raises(EngineFault, match="this request"):
            _ = [event async for event in bad]
        assert len([event async for event in good]) == 50 and worker.healthy
    serve(test)


def test_an_engine_that_fails_takes_only_its_own_requests_and_says_so():
    async def test(worker, engine):
        other, good = await worker.submit("b", asked(tokens=50)), await worker.submit("a", asked(tokens=10**9))
        bad = await worker.submit("a", asked(prompt=13))
        for stream in (good, bad):
            with pytest.raises(EngineFault, match="a has failed"):
                _ = [event async for event in stream]
        assert len([event async for event in other]) == 50
        assert worker.alive and not worker.healthy and "unlucky" in worker.faults["a"] and engine.tickets == []
        with pytest.raises(EngineFault):
            await worker.submit("a", asked())
        worker.faults.clear()
        assert len([event async for event in await worker.submit("a", asked())]) == 5 and worker.healthy
    serve(test)


def test_work_is_done_in_the_thread_a_step_a_round():
    async def test(worker, engine):
        stream = await worker.submit("a", asked(tokens=10**9))

        def slowly(given):
            assert given is engine
            seen = []
            for _ in range(5):
                seen.append(engine.ticks)
                yield
            return seen

        seen = await worker.call("a", slowly)
        assert len(set(seen)) == 5                                  # the request went on in between
        assert await worker.call("a", lambda given: threading.get_ident()) in engine.threads
        with pytest.raises(ZeroDivisionError):
            await worker.call("a", lambda given: 1 / 0)
        stream.cancel()
    serve(test, room=10**9)


def test_work_nobody_waits_for_is_dropped():
    async def test(worker, engine):
        steps = []

        def forever(given):
            while True:
                steps.append(1)
                yield

        task = asyncio.create_task(worker.call("a", forever))
        await until(lambda: len(steps) > 3)
        task.cancel()
        await until(lambda: not worker._jobs)
        count = len(steps)
        await asyncio.sleep(0.02)
        assert len(steps) == count
    serve(test)


def test_stopping_ends_what_is_under_way():
    async def test(worker, engine):
        stream = await worker.submit("a", asked(tokens=10**9))
        worker.stop()
        with pytest.raises(EngineFault, match="shutting down"):
            _ = [event async for event in stream]
        assert not worker.alive and not worker.healthy
    serve(test)
