"""What the server counts, as Prometheus reads it (text format 0.0.4). No label holds anything a person wrote."""

import time
from collections.abc import AsyncIterator

from bloomery.generate.request import Event
from bloomery.serve.worker import Worker

COUNTED = {"prompt_tokens": "prompt tokens read", "cached_tokens": "prompt tokens that were known from before",
           "generated_tokens": "tokens written", "steps": "rounds of the engine", "requests": "requests taken"}


class Counters:
    """Counters and gauges of every engine, and how long people wait."""

    def __init__(self) -> None:
        self.first, self.next = Histogram(), Histogram()

    async def timed(self, events: AsyncIterator[tuple[int, Event] | None]) -> AsyncIterator[tuple[int, Event] | None]:
        """The events of a stream as they come, and how long each answer's tokens let its reader wait."""
        begin, last = time.monotonic(), {}
        async for found in events:
            if found and found[1].tokens:
                key, now = (found[0], found[1].index), time.monotonic()
                (self.next if key in last else self.first).add(now - last.get(key, begin))
                last[key] = now
            yield found

    def text(self, worker: Worker) -> str:
        lines: list[str] = []
        for name, meaning in COUNTED.items():
            lines += metric(f"bloomery_{name}_total", "counter", meaning, {
                model: engine.stats.get(name, 0) for model, engine in worker.engines.items()})
        gauges = {"free_slots": "slots nobody uses", "waiting": "answers without a slot"}
        for name, meaning in gauges.items():
            lines += metric(f"bloomery_{name}", "gauge", meaning, {
                model: getattr(engine, name) for model, engine in worker.engines.items()})
        lines += metric("bloomery_open", "gauge", "answers under way or waiting", worker.open)
        lines += metric("bloomery_healthy", "gauge", "1 while the model answers", {
            model: int(worker.alive and model not in worker.faults) for model in worker.engines})
        lines += self.first.lines("bloomery_time_to_first_token_seconds", "wait for a stream's first token")
        lines += self.next.lines("bloomery_inter_token_seconds", "wait for a stream's next token")
        return "\n".join(lines) + "\n"


def metric(name: str, kind: str, meaning: str, values: dict[str, float]) -> list[str]:
    return [f"# HELP {name} {meaning}", f"# TYPE {name} {kind}",
            *(f'{name}{{model="{escaped(model)}"}} {value}' for model, value in values.items())]


def escaped(label: str) -> str:
    return label.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


class Histogram:
    """How many values were at most 1 ms, 2.5 ms, ... 100 s."""

    EDGES = tuple(edge * 10.0**power for power in range(-3, 2) for edge in (1, 2.5, 5)) + (100.0,)

    def __init__(self) -> None:
        self.counts, self.sum = [0] * (len(self.EDGES) + 1), 0.0

    def add(self, value: float) -> None:
        self.counts[sum(value > edge for edge in self.EDGES)] += 1
        self.sum += value

    def lines(self, name: str, meaning: str) -> list[str]:
        out, total = [f"# HELP {name} {meaning}", f"# TYPE {name} histogram"], 0
        for edge, count in zip([*(f"{edge:g}" for edge in self.EDGES), "+Inf"], self.counts, strict=True):
            total += count
            out.append(f'{name}_bucket{{le="{edge}"}} {total}')
        return [*out, f"{name}_sum {self.sum:.6f}", f"{name}_count {total}"]
