"""Clients that leave, that do not read, that change their minds: slots come back, memory stays, the next one is served.

Where memory is looked at, the server has a process of its own, so that it is not that of its clients.
"""

import asyncio
import gc
import json
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from live_server import comes

from tests.miniature import bloomery, end

httpx = pytest.importorskip("httpx2", reason="httpx2, which comes with openai, is not installed")

LONG = {"model": "tiny", "prompt": "x", "max_tokens": 250, "ignore_eos": True, "temperature": 1, "stream": True}
SLOTS = 16


class Process:
    """A `bloomery serve` to look at from outside."""

    def __init__(self, number: int, url: str):
        self.number, self.url = number, url
        self.place = ("127.0.0.1", int(url.rpartition(":")[2]))

    def memory(self) -> float:
        """Resident megabytes."""
        status = Path(f"/proc/{self.number}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024

    def handles(self) -> int:
        return len(list(Path(f"/proc/{self.number}/fd").iterdir()))

    def metric(self, name: str) -> float:
        rows = httpx.get(f"{self.url}/metrics", timeout=60).text.splitlines()
        return float(next(row for row in rows if row.startswith(f'bloomery_{name}{{model="tiny"}}')).split()[-1])

    def rests(self) -> bool:
        return self.metric("free_slots") == SLOTS and self.metric("open") == 0 == self.metric("waiting")

    def ask(self) -> dict:
        """One short answer."""
        body = {**LONG, "stream": False, "max_tokens": 3, "seed": 1}
        return httpx.post(f"{self.url}/v1/completions", json=body, timeout=60).raise_for_status().json()

    def send(self, body: dict, *, buffer: int | None = None) -> socket.socket:
        """Ask without reading the answer, which `buffer` bytes of it may wait for here."""
        text, line = json.dumps(body).encode(), socket.socket()
        if buffer:
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        line.settimeout(60)
        line.connect(self.place)
        line.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                     b"Content-Length: %d\r\n\r\n" % len(text) + text)
        return line


@contextmanager
def served(folder: Path, *options: str) -> Iterator[Process]:
    """A server in a process of its own."""
    options = ("access_log=false", "dtype=fp32", "chunk=16", f"slots={SLOTS}", *options)
    process = bloomery("serve", f"tiny={folder}", "--port", 0, *(p for o in options for p in ("--set", o)), cwd=folder)
    try:
        said = iter(process.stderr.readline, "")
        url = next(line.strip() for line in said if line.startswith("http://"))
        Thread(target=list, args=(said,), daemon=True).start()         # a full pipe would stop the server
        assert comes(lambda: answers(url)), "the server does not answer"
        yield Process(process.pid, url)
    finally:
        end(process)


def answers(url: str) -> bool:
    with suppress(httpx.TransportError):
        return httpx.get(f"{url}/health", timeout=60).status_code == 200
    return False


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_200_abandoned_streams_free_their_slots_and_memory_stays(tiny_folder):
    """What is left of their 50,000 tokens is never written, and the next one is served as if they had not been."""
    with served(tiny_folder, "queue=256") as live:
        alone, seen = live.ask(), []
        for _ in range(4):
            before = live.metric("generated_tokens_total")
            lines = [live.send(LONG) for _ in range(200)]
            assert comes(lambda: live.metric("open") == 200)
            for line in lines:
                line.close()
            left = time.monotonic()
            assert live.ask()["choices"] == alone["choices"]
            answered = time.monotonic()
            assert comes(live.rests)
            sys.stderr.write(f"200 streams left: the next answered after {answered - left:.2f} s, all slots seen free "
                             f"after {time.monotonic() - left:.2f} s\n")
            assert live.metric("generated_tokens_total") - before < 200 * 250 / 4
            seen.append((live.memory(), live.handles()))
        assert seen[-1][0] - seen[0][0] < 8 and seen[-1][1] <= seen[0][1] + 2, seen


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_1000_slow_readers_cost_little_memory(tiny_folder):
    """Each is to be told half a megabyte and reads nothing of it; an answer rests when some of it waits unread."""
    with served(tiny_folder, "queue=1000", "reader_seconds=1", "reader_events=16") as live:
        live.ask()
        before, most = live.memory(), 0.0
        lines = [live.send(LONG | {"logprobs": 20}, buffer=2048) for _ in range(1000)]
        until = time.monotonic() + 300
        while not live.rests() and time.monotonic() < until:
            most = max(most, live.memory())
            time.sleep(0.1)
        assert live.rests() and live.ask()["choices"][0]["text"]
        sys.stderr.write(f"1000 slow readers: at most {most - before:.0f} MB more\n")
        assert most - before < 150          # of the 500 that they did not read
        for line in lines:
            line.close()
        assert comes(lambda: live.handles() < 100)


# --- leaving at any time ------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def live(serving):
    with serving(pace=0.001) as found:
        yield found


def at_work() -> int:
    """Tasks of every event loop in this process that are not done."""
    return sum(type(thing) is asyncio.Task and not thing.done() for thing in gc.get_objects())


LEAVING = st.lists(st.tuples(st.floats(0, 0.15), st.sampled_from(["/v1/completions", "/v1/chat/completions"]),
                             st.booleans(), st.integers(1, 4)), min_size=1, max_size=12)


@given(LEAVING)
@settings(max_examples=15)
def test_leaving_at_any_time_leaks_nothing(live, clients):
    """Clients leave after any time, while sending, waiting, reading; then no slot, no task and no place is taken."""
    tasks = at_work()

    async def visit(seconds: float, path: str, stream: bool, n: int) -> None:
        what = {"prompt": "x"} if path == "/v1/completions" else {"messages": [{"role": "user", "content": "x"}]}
        body = json.dumps({"model": "tiny", "max_tokens": 200, "ignore_eos": True, "stream": stream, "n": n, **what})
        reader, writer = await asyncio.open_connection(*live.url.removeprefix("http://").split(":"))
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        whole = f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()
        writer.write(whole[:len(whole) if seconds > 0.02 else int(len(whole) * seconds / 0.02)])
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await reader.read()
        writer.transport.abort() if n % 2 else writer.close()

    async def together() -> None:
        await asyncio.gather(*(visit(*client) for client in clients))

    asyncio.run(together())
    engine, worker = live.models.engines["tiny"], live.worker
    assert comes(lambda: not engine.busy and at_work() <= tasks), (engine.busy, at_work(), tasks)
    assert engine.free_slots == live.settings.slots and engine.waiting == 0
    assert not any(worker.open.values()) and not any(worker._live.values()) and not worker._jobs
    assert httpx.post(f"{live.url}/v1/completions", json={"model": "tiny", "prompt": "x", "max_tokens": 2},
                      timeout=60).status_code == 200
