"""Case `loss-memory` (B12): peak memory of the loss of a long context against all logits and TRL's head.

Every measurement is `benchmarks/loss_memory.py` in a process of its own.  Gate: loss, gradient norms and gradient
times value agree to 1e-3, which is what bf16 leaves.  Ratio = the peer's peak / ours.
"""

from collections.abc import Iterator

from benchmarks.harness import PASSED, Options, Row, compared, fresh, turns
from benchmarks.loss_memory import SIZES

PEERS = ("naive", "trl")                # linear_cross_entropy rounds its loss to bf16 and fails the gate (docs/log.md)
CLOSE = 1e-3
LARGE = 2**30                           # logits beyond which a step takes minutes: one pair


def equal_checks(ours: dict, peer: dict) -> str:
    worst = max(abs(a - b) / max(abs(b), 1e-12) for a, b in zip(ours["checks"], peer["checks"], strict=True))
    return PASSED if worst <= CLOSE else f"failed: loss or gradients differ by {worst:.1e}, more than {CLOSE:.0e}"


def run(options: Options) -> Iterator[Row]:
    for tokens, vocabulary in SIZES[:1] if options.quick else SIZES:
        for name in PEERS:
            def side(name: str, size: tuple[int, int] = (tokens, vocabulary)) -> dict:
                return fresh(options, "loss_memory", name, *map(str, size), peer=name != "ours")

            count = options.pairs if tokens * vocabulary <= LARGE else 1
            pairs = turns(lambda s=side: s("ours"), lambda s=side, n=name: s(n), count)
            missing = any("not_run" in peer for _, peer in pairs)
            time = {} if missing else {"times_faster": round(
                sorted(peer["seconds"] / ours["seconds"] for ours, peer in pairs)[count // 2], 2)}
            yield compared(f"{name}, {tokens // 1024}k x {round(vocabulary / 1000)}k", pairs, key="peak_bytes",
                           unit="bytes", less=True, gate=PASSED if missing else equal_checks(*pairs[0]), details=time)
