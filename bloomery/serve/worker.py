"""One thread owns every engine; coroutines hand it requests and read what comes of them.

The thread obeys commands between steps, gives each engine with work one step in turn and posts what a step brought to
the event loop in one go.  A `Stream` keeps a bounded number of events: when its reader is behind, the request rests in
its slots, and a reader who stays behind loses them.  What fails inside an engine is that engine's fault: its requests
end with an error, `faults` says so and nothing more is handed to it until other weights are loaded.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, TypeVar

from bloomery.core.errors import BloomeryError
from bloomery.core.metrics import say
from bloomery.generate.engine import Engine
from bloomery.generate.request import Event, Request, Ticket

T = TypeVar("T")
STUCK = 120.0               # seconds of one round after which the thread counts as stuck; prompts are read in chunks


class EngineFault(BloomeryError):
    """The engine failed, not the request: another try may work once it is mended."""


class TooSlow(BloomeryError):
    """A reader did not read, and its slots were given to others."""


class Stream:
    """What happens to one request, `async for event in stream`; leaving it early needs `cancel`.

    A `quiet` one has no events and only ends: the completions are in its ticket.  Streams that are read together share
    `arrived`, which is set when any of them has something.
    """

    def __init__(self, worker: "Worker", model: str, request: Request, *, quiet: bool = False,
                 arrived: asyncio.Event | None = None):
        self.worker, self.model, self.request, self.quiet = worker, model, request, quiet
        self.loop = asyncio.get_running_loop()
        self.ticket: Ticket | None = None
        self.over = False
        self.sent = self.taken = 0          # events: counted by the thread, by the loop
        self._events: deque[Event] = deque()
        self._error: Exception | None = None
        self.arrived = arrived or asyncio.Event()
        self._given_up: asyncio.TimerHandle | None = None

    def __aiter__(self) -> "Stream":
        return self

    async def __anext__(self) -> Event:
        while (event := self.pop()) is None:
            if self.over:
                raise StopAsyncIteration
            self.arrived.clear()
            await self.arrived.wait()
        return event

    def pop(self) -> Event | None:
        """The next event, None if there is none now. Raises what ended the stream."""
        if not self._events:
            if self._error:
                raise self._error
            return None
        event = self._events.popleft()
        self.taken += 1
        if self.ticket.paused and len(self._events) <= self.worker.room // 2:
            self._resume()
        return event

    @property
    def waiting(self) -> int:
        """Events that nobody has read yet."""
        return len(self._events)

    def arrive(self, events: list[Event], over: bool) -> None:
        """Called on the event loop with what a step brought."""
        if self.over:
            return
        self._events.extend(events)
        if over:
            self._end(EngineFault("the engine failed on this request", why=self.ticket.error)
                      if self.ticket.error else None)
        elif self.ticket.paused and not self._given_up:
            self._given_up = self.loop.call_later(self.worker.patience, self._give_up)
        self.arrived.set()

    def _resume(self) -> None:
        self.ticket.paused = False
        self._forgive()
        self.worker.wake()

    def _forgive(self) -> None:
        if self._given_up:
            self._given_up.cancel()
            self._given_up = None

    def _give_up(self) -> None:
        self.cancel(TooSlow("the answer was not read", why=f"it waited {self.worker.patience:g} s for its reader"))

    def fail(self, error: Exception) -> None:
        if not self.over:
            self._end(error)

    def cancel(self, error: Exception | None = None) -> None:
        """Free the slots within a step; nothing more comes. Safe to call at any time, also after the end."""
        if not self.over:
            self._events.clear()
            self.worker.command(lambda: self.worker.forget(self))
            self._end(error)

    def _end(self, error: Exception | None) -> None:
        self.over, self._error = True, error
        self._forgive()
        self.worker.left(self)
        self.arrived.set()


@dataclass
class Job:
    """Something else to do in the thread: its generator is advanced once a round, so that answers go on beside it."""

    steps: Generator[Any, None, Any]
    future: Future


@dataclass
class Worker:
    """The thread and its engines. `room` events of a stream wait for its reader, who may be `patience` seconds late."""

    engines: dict[str, Engine]
    room: int = 64
    patience: float = 30.0
    faults: dict[str, str] = field(default_factory=dict)
    open: dict[str, int] = field(default_factory=dict)              # samples under way by model, counted on the loop
    _live: dict[str, dict[Ticket, Stream]] = field(default_factory=dict)     # touched by the thread only
    _jobs: list[Job] = field(default_factory=list)                           # likewise
    _inbox: SimpleQueue = field(default_factory=SimpleQueue)
    _thread: threading.Thread | None = None
    _ending: bool = False
    _round: float | None = None             # when the round under way began

    # --- for the event loop ---------------------------------------------------------------------------------------

    def start(self) -> None:
        self._ending = False
        self._live = {name: {} for name in self.engines}
        self.open = dict.fromkeys(self.engines, 0)
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def stop(self, timeout: float = 10.0) -> None:
        """End the thread after the step under way; streams still open fail."""
        self._ending = True
        self.wake()
        if self._thread:
            self._thread.join(timeout)

    @property
    def alive(self) -> bool:
        """Whether the thread goes round."""
        stuck = self._round is not None and time.monotonic() - self._round > STUCK
        return self._thread is not None and self._thread.is_alive() and not stuck

    @property
    def healthy(self) -> bool:
        return self.alive and not self.faults

    async def submit(self, model: str, request: Request, *, quiet: bool = False,
                     arrived: asyncio.Event | None = None) -> Stream:
        """Hand over a request, whose events are then read. Raises `InputError` for one that cannot be served."""
        if not self.alive:
            raise EngineFault("the engines have stopped")
        stream = Stream(self, model, request, quiet=quiet, arrived=arrived)
        self.open[model] += request.n
        accepted = asyncio.wrap_future(self.command(lambda: self._accept(stream)))
        try:
            stream.ticket = await asyncio.shield(accepted)
        except asyncio.CancelledError:
            stream.cancel()
            raise
        except Exception:
            stream.over = True
            self.left(stream)
            raise
        return stream

    async def call(self, model: str, function: Callable[[Engine], T]) -> T:
        """Run something in the thread; a generator is advanced a step a round, its return value is the result."""
        engine = self.engines[model]
        future = self.command(lambda: function(engine))
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            self.command(lambda: self._drop(future))
            raise

    def left(self, stream: Stream) -> None:
        self.open[stream.model] -= stream.request.n

    def command(self, function: Callable[[], T]) -> Future:
        """Have something done in the thread between two steps."""
        future: Future = Future()
        self._inbox.put((function, future))
        return future

    def wake(self) -> None:
        self._inbox.put(None)

    # --- in the thread --------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._ending:
            self._round = None
            self._obey()
            self._round = time.monotonic()
            for name in self.engines:
                if self.engines[name].busy and name not in self.faults:
                    self._step(name)
            for job in list(self._jobs):
                self._advance(job)
        self._round = None
        for name in self.engines:
            self._fail(name, EngineFault("the server is shutting down"))

    def _obey(self) -> None:
        """What came in since the last round; with nothing else to do, wait for it."""
        idle = not self._jobs and not any(self.engines[name].busy for name in self.engines.keys() - self.faults.keys())
        while idle or not self._inbox.empty():
            found, idle = self._inbox.get(), False
            if found is None:
                continue
            function, future = found
            if not future.set_running_or_notify_cancel():
                continue
            try:
                result = function()
            except Exception as error:
                future.set_exception(error)
            else:
                if isinstance(result, Generator):
                    self._jobs.append(Job(result, future))
                else:
                    future.set_result(result)

    def _advance(self, job: Job) -> None:
        try:
            next(job.steps)
        except StopIteration as end:
            job.future.set_result(end.value)
        except Exception as error:
            job.future.set_exception(error)
        else:
            return
        self._jobs.remove(job)

    def _drop(self, future: Future) -> None:
        self._jobs = [job for job in self._jobs if job.future is not future]

    def _accept(self, stream: Stream) -> Ticket:
        if stream.model in self.faults:
            raise EngineFault(f"{stream.model} has failed", why=self.faults[stream.model])
        ticket = self.engines[stream.model].submit(stream.request)
        stream.ticket = ticket
        self._live[stream.model][ticket] = stream
        return ticket

    def forget(self, stream: Stream) -> None:
        if stream.ticket in self._live[stream.model]:
            del self._live[stream.model][stream.ticket]
            self.engines[stream.model].cancel(stream.ticket)

    def _step(self, name: str) -> None:
        live = self._live[name]
        try:
            events = self.engines[name].step()
        except Exception as error:
            self.faults[name] = f"{type(error).__name__}: {error}"
            say(f"warning: the engine of {name} failed ({self.faults[name]}); its requests are ended")
            self._fail(name, EngineFault(f"{name} has failed", why=self.faults[name]))
            return
        brought: dict[Ticket, list[Event]] = {}
        for event in events:
            if event.ticket in live and not live[event.ticket].quiet:
                brought.setdefault(event.ticket, []).append(event)
        posts = [(live[ticket], found, ticket.finished) for ticket, found in brought.items()]
        for ticket in [ticket for ticket in live if ticket.finished]:
            stream = live.pop(ticket)
            if ticket not in brought:
                posts.append((stream, [], True))
        for stream, found, _ in posts:
            stream.sent += len(found)
            stream.ticket.paused = stream.ticket.paused or stream.sent - stream.taken > self.room
        for loop in {stream.loop for stream, _, _ in posts}:
            self._post(loop, [post for post in posts if post[0].loop is loop])

    def _post(self, loop: asyncio.AbstractEventLoop, posts: list[tuple[Stream, list[Event], bool]]) -> None:
        def deliver() -> None:
            for stream, events, over in posts:
                stream.arrive(events, over)

        with suppress(RuntimeError):                # the loop is closed: nobody is left to read
            loop.call_soon_threadsafe(deliver)

    def _fail(self, name: str, error: Exception) -> None:
        """End all that is under way in an engine."""
        for ticket, stream in list(self._live[name].items()):
            with suppress(Exception):
                self.engines[name].cancel(ticket)
            with suppress(RuntimeError):
                stream.loop.call_soon_threadsafe(stream.fail, error)
        self._live[name].clear()
