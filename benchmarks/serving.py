"""One side of a served load: a server in a process of its own, and clients who do not wait for each other.

    python -m benchmarks.serving SIDE SPEC

SPEC is JSON: folder, dtype, flags (of the server), and a list of requests, each with the second it is due, the words of
its prompt and the tokens wanted.  The load is open: a request is sent when it is due, whatever became of those before,
and its first token is late from that moment on (Tene 2015, coordinated omission).  Every request streams from
/v1/completions, greedily, to its full length.  The clients are the standard library's sockets, the same on both sides.
"""

import asyncio
import json
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator
from importlib import import_module
from itertools import pairwise
from urllib.error import URLError

HOST, START = "127.0.0.1", 300.0        # seconds a server may take to answer that it is well
NEEDED = ("fastapi", "uvicorn", "openai", "accelerate", "transformers")       # by `transformers serve`
COMMANDS = {
    "ours": ("-m", "bloomery.cli", "serve", "{folder}", "--port", "{port}", "--set", "dtype={dtype}",
             "--set", "queue=4096", "--set", "per_key=4096"),   # nobody is turned away, as the peer turns nobody away
    "transformers": ("-m", "transformers.cli.transformers", "serve", "{folder}", "--port", "{port}",
                     "--host", HOST, "--dtype", "{dtype}"),
}
DTYPES = {"ours": {}, "transformers": {"bf16": "bfloat16", "fp32": "float32"}}
EXTRA = {"ours": {"ignore_eos": True}, "transformers": {}}      # the folder names no end, but its tokenizer has one
BEGIN = {"ours": "", "transformers": "<|endoftext|> "}          # ours lets text begin a document by itself


class Server:
    """A server while it is used: started, found well, and ended."""

    def __init__(self, side: str, folder: str, dtype: str, flags: list[str]):
        with socket.socket() as free:
            free.bind((HOST, 0))
            self.port = free.getsockname()[1]
        said = {"folder": folder, "port": self.port, "dtype": DTYPES[side].get(dtype, dtype)}
        self.command = [sys.executable, *(part.format(**said) for part in COMMANDS[side]), *flags]

    def __enter__(self) -> "Server":
        self.errors = tempfile.TemporaryFile()
        self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                        stderr=self.errors)
        end = time.monotonic() + START
        while not self.well():
            if self.process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"the server did not start: {self.last_words()}")
            time.sleep(0.05)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.errors.close()

    def well(self) -> bool:
        try:
            return self.get("/health") is not None
        except (URLError, OSError):
            return False

    def get(self, path: str) -> dict:
        with urllib.request.urlopen(f"http://{HOST}:{self.port}{path}", timeout=10) as answer:
            return json.load(answer)

    def last_words(self) -> str:
        self.errors.seek(0)
        return self.errors.read().decode(errors="replace")[-2000:]


async def events(port: int, body: dict) -> AsyncIterator[tuple[float, dict]]:
    """The stream that answers a completion: when each event came, and the event."""
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        content = json.dumps(body).encode()
        writer.write(f"POST /v1/completions HTTP/1.1\r\nHost: {HOST}:{port}\r\nContent-Type: application/json\r\n"
                     f"Content-Length: {len(content)}\r\nConnection: close\r\n\r\n".encode() + content)
        status = (await reader.readline()).decode()
        while (await reader.readline()).strip():
            pass
        if " 200 " not in status:
            raise RuntimeError(f"{status.strip()}: {(await reader.read(1000)).decode(errors='replace')}")
        waiting = b""
        while size := int(await reader.readline() or b"0", 16):             # HTTP's chunks, which end with an empty one
            waiting += await reader.readexactly(size)
            await reader.readline()
            *whole, waiting = waiting.split(b"\n\n")
            for event in whole:
                if event.startswith(b"data: {"):
                    yield time.perf_counter(), json.loads(event.removeprefix(b"data: "))
    finally:
        writer.close()


async def client(port: int, model: str, side: str, wanted: dict, begin: float) -> dict:
    """One request: seconds from when it was due to its first token, and between tokens on average and one by one."""
    due = begin + wanted["due"]
    await asyncio.sleep(max(due - time.perf_counter(), 0))
    body = {"model": model, "prompt": BEGIN[side] + wanted["prompt"], "max_tokens": wanted["new"], "temperature": 0,
            "stream": True, "stream_options": {"include_usage": True}} | EXTRA[side]
    text, times, tokens = "", [], 0
    async for now, event in events(port, body):
        if "error" in event:
            raise RuntimeError(f"the stream broke off: {event['error']}")
        tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
        if piece := "".join(choice.get("text") or "" for choice in event["choices"]):
            text += piece
            times.append(now)
    if tokens != wanted["new"]:
        raise RuntimeError(f"{wanted['new']} tokens were asked for and {tokens} came")
    return {"first": times[0] - due, "between": (times[-1] - times[0]) / max(tokens - 1, 1), "end": times[-1],
            "gaps": [now - before for before, now in pairwise(times)], "tokens": tokens, "text": text.split()}


async def load(port: int, model: str, side: str, asked: list[dict]) -> tuple[float, list[dict]]:
    """Seconds from the first request due to the last token, and what every client saw."""
    begin = time.perf_counter()
    seen = await asyncio.gather(*(client(port, model, side, wanted, begin) for wanted in asked))
    return max(each["end"] for each in seen) - begin - min(wanted["due"] for wanted in asked), list(seen)


def percentiles(values: list[float]) -> dict[str, float]:
    """The 50th, 90th and 99th, by nearest rank; of nothing, 0."""
    ordered = sorted(values)
    return {str(p): ordered[-(-p * len(ordered) // 100) - 1] if ordered else 0.0 for p in (50, 90, 99)}


def measure(side: str, spec: dict) -> dict:
    for name in NEEDED if side == "transformers" else ():
        import_module(name)                                     # a peer that is not there is `not run`
    with Server(side, spec["folder"], spec["dtype"], spec.get("flags", [])) as server:
        model = spec["folder"] if side == "transformers" else server.get("/v1/models")["data"][0]["id"]
        for wanted in spec["warm"]:
            asyncio.run(load(server.port, model, side, [wanted]))
        seconds, seen = asyncio.run(load(server.port, model, side, spec["requests"]))
    said = {"seconds": seconds, "rate": sum(each["tokens"] for each in seen) / seconds,
            "gaps": percentiles([gap for each in seen for gap in each["gaps"]])}
    for key in ("first", "between"):
        said[f"{key} percentiles"] = percentiles([each[key] for each in seen])
        said[key] = said[f"{key} percentiles"]["50"]
    return said | ({"texts": [each["text"] for each in seen]} if spec.get("gate") else {})


if __name__ == "__main__":
    sys.stdout.write("\n" + json.dumps(measure(sys.argv[1], json.loads(sys.argv[2]))) + "\n")
