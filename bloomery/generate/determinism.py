"""Does a request get the same bits whatever else is being served?  Tried, not assumed: it depends on the CPU's kernels.

Matrix products of a multiple of eight rows usually treat each row alike, however many there are.  Where they do not,
the engine is told to decode all slots in every step: then nothing depends on who is there.  Several threads may still
divide a product so that its halves round differently; MKL's own switch, set before torch is imported
(`MKL_CBWR=AVX2,STRICT`), is then needed.  What was tried holds for this machine, this build of torch and this number
of threads.
"""

from dataclasses import dataclass

import torch

from bloomery.generate.engine import ROWS, Engine
from bloomery.generate.request import Completion, Request
from bloomery.generate.sampling import GREEDY, Sampling

CROWD = (13, 29, 31, 37, 41, 43, 47)    # seven other prompts, all read at once
TOKENS = 4                      # decoded per trial: a difference shows in the first, seldom later


@dataclass(frozen=True)
class Report:
    """What was the same to the bit: tokens and log-probabilities of one request in different circumstances."""

    slots: bool                 # in every slot
    neighbours: bool            # alone, and beside a request in every other slot
    cached: bool                # its prompt read from the start, and half of it known
    fixed: bool                 # because, or although, all slots are decoded in every step
    threads: int

    @property
    def ok(self) -> bool:
        return self.slots and self.neighbours and self.cached

    @property
    def why(self) -> str:
        """One line for a person."""
        how = f"{self.threads} thread{'s' * (self.threads > 1)}" + ", all slots in every step" * self.fixed
        if self.ok:
            return f"the same request gives the same bits in any slot, beside any others, cached or not ({how})"
        wrong = [name for name, same in (("in another slot", self.slots), ("beside others", self.neighbours),
                                         ("after a cached prefix", self.cached)) if not same]
        advice = "; one thread, or MKL_CBWR=AVX2,STRICT in the environment, may help" if self.threads > 1 else ""
        return f"the same request gives other bits {' and '.join(wrong)} ({how}{advice})"


def self_test(engine: Engine) -> Report:
    """Answer one request in several ways with an idle engine, and compare bits. No other trace of it stays than this:

    where answers differ, the engine decodes all slots in every step from now on.
    """
    if engine.busy:
        raise ValueError("the engine is busy: try it before it serves")
    if engine.context <= TOKENS:
        raise ValueError(f"a context of {engine.context} tokens leaves nothing to try")
    stats = engine.stats.copy()
    report = tried(engine)
    if not (report.ok or engine.fixed):
        engine.fixed, engine.together, engine.meanwhile = True, 1, 1
        report = tried(engine)
    engine.stats = stats
    return report


def tried(engine: Engine) -> Report:
    """One prompt of more than a chunk alone, cached, in batches of different sizes, and beside a longer one."""
    slots, vocabulary, room = len(engine.scheduler.slots), engine.model.config.vocabulary, engine.context - TOKENS

    def answered(*requests: Request) -> list[list[tuple[int, float]]]:
        return [bits(one) for one in engine.generate(requests)[-1]]

    def asked(n: int) -> Request:
        return Request(spread(min(engine.chunk + 3, room), vocabulary, 7919), TOKENS, how=GREEDY, n=n)

    longer = spread(min(3 * engine.chunk, room), vocabulary, 104_729)
    crowd = [Request(spread(min(2 * engine.chunk, room), vocabulary, step), 1) for step in CROWD[:engine.together - 1]]
    others = Request(longer, 2 * TOKENS, how=Sampling(), seed=1, n=max(1, slots - 1))
    engine.forget()
    alone = answered(asked(1))[0]
    cached = answered(asked(1))[0]
    everywhere = [got for n in sizes(slots) for got in answered(asked(n))]
    beside = answered(others, asked(1))[0]
    engine.forget()
    crowded = answered(*crowd, asked(1))[0]
    engine.forget()
    return Report(all(got == alone for got in everywhere), beside == alone == crowded, cached == alone, engine.fixed,
                  torch.get_num_threads())


def sizes(slots: int) -> list[int]:
    """How many samples are decoded side by side: each twice as many rows as the one before, and at last all slots."""
    found = [slots]
    while found[0] > ROWS:
        found.insert(0, found[0] // 2)
    return found


def spread(count: int, vocabulary: int, step: int) -> tuple[int, ...]:
    """`count` ids from all over a vocabulary."""
    return tuple((17 + i * step) % vocabulary for i in range(count))


def bits(one: Completion) -> list[tuple[int, float]]:
    """Tokens with their log-probabilities; two floats are equal here when all their bits are."""
    return [(token.id, token.raw) for token in one.tokens]
