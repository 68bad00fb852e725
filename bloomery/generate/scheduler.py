"""Who decodes in which slot, and what of a prompt need not be read again: bookkeeping, without a tensor in it.

A slot is a row of the cache.  It remembers the prompt tokens it was filled with after its sample has left, and a new
prompt goes on from the longest prefix of whole chunks that any slot holds, found by comparing ids.  Chunks lie on one
grid for all prompts, and what was decoded token by token is never reused, so that a prefix has the same bits wherever
it comes from.

Samples wait in the order they came.  The n samples of a request need no n free slots: the first to get one reads the
prompt, each of the others starts from a copy as slots become free.
"""

from collections import deque
from collections.abc import Container
from dataclasses import dataclass, field

from bloomery.generate.request import Request, Ticket


@dataclass(eq=False)
class Sample:
    """One of the n of a request, waiting or in a slot."""

    ticket: Ticket
    index: int
    read: int = 0                       # prompt tokens whose keys are in its slot
    said: list[int] = field(default_factory=list)

    @property
    def request(self) -> Request:
        return self.ticket.request

    @property
    def ready(self) -> bool:
        """All of its prompt is read."""
        return self.read == len(self.request.prompt)

    @property
    def scores(self) -> bool:
        """It reads the whole prompt itself, and what is read is scored."""
        return self.request.prompt_logps and self.index == 0


@dataclass(eq=False)
class Slot:
    number: int
    sample: Sample | None = None
    held: tuple[int, ...] = ()          # prompt tokens it was filled with, also after the sample has left
    used: int = 0                       # when something last happened to it


class Scheduler:
    def __init__(self, slots: int, chunk: int, *, reuse: bool = True):
        if slots < 1 or chunk < 1:
            raise ValueError(f"slots ({slots}) and chunk ({chunk}) must be >= 1")
        self.slots = [Slot(number) for number in range(slots)]
        self.waiting: deque[Sample] = deque()
        self.chunk, self.reuse, self._time = chunk, reuse, 0
        self.closing = False                    # true: nobody new comes in, who has begun is finished

    @property
    def free(self) -> list[Slot]:
        return [slot for slot in self.slots if slot.sample is None]

    @property
    def taken(self) -> list[Slot]:
        return [slot for slot in self.slots if slot.sample is not None]

    @property
    def next(self) -> Sample | None:
        """Who gets the next slot; a request with one sample inside has begun."""
        head = self.waiting[0] if self.waiting and self.free else None
        return None if head is None or (self.closing and head.index == 0) else head

    @property
    def empty(self) -> bool:
        """No request has begun."""
        return not self.taken and not (self.waiting and self.waiting[0].index)

    @property
    def resting(self) -> bool:
        """A step would do nothing: nobody to admit, and everyone who has a slot is paused."""
        return self.next is None and all(slot.sample.ticket.paused for slot in self.taken)

    def submit(self, ticket: Ticket) -> None:
        self.waiting += [Sample(ticket, index) for index in range(ticket.request.n)]

    def admit(self) -> None:
        """Give free slots to those who have waited longest."""
        while sample := self.next:
            self.waiting.popleft()
            prompt = sample.request.prompt
            self._touch(max(self.free, key=lambda slot: (self._continued(slot, prompt), -slot.used)), sample)

    def _continued(self, slot: Slot, prompt: tuple[int, ...]) -> int:
        """How much is reused in place if `prompt` takes a slot; -1 if that destroys what others might reuse."""
        whole = len(slot.held) // self.chunk * self.chunk
        return whole if slot.held[:whole] == prompt[:whole] else -1

    def _touch(self, slot: Slot, sample: Sample | None) -> None:
        self._time += 1
        slot.sample, slot.used = sample, self._time

    def readers(self, known: Container[Ticket] = (), *, most: int = 1) -> list[Slot]:
        """Up to `most` slots whose prompts are read next. Requests take turns; of the samples of one the first reads.

        For those of `known` requests there is something to copy.  Who would read the same chunk as another waits for a
        copy of it.
        """
        first: dict[Ticket, Slot] = {}
        for slot in sorted(self.taken, key=lambda slot: slot.sample.index):
            sample = slot.sample
            copies = sample.ticket in known and not sample.scores and self.holder(sample.request.prompt)
            if not (sample.ready or sample.ticket.paused or copies):
                first.setdefault(sample.ticket, slot)
        turns = sorted(first.values(), key=lambda slot: slot.used)
        if most == 1:
            return turns[:1]
        own = {slot.sample.request.prompt[:slot.sample.read + self.chunk]: slot for slot in reversed(turns)}
        return sorted(own.values(), key=lambda slot: slot.used)[:most]

    def prefix(self, slot: Slot) -> tuple[Slot, int]:
        """Where the prompt of a slot's sample goes on: the slot to copy from, perhaps itself, and how many tokens.

        The last prompt token is always read, so that its logits exist.
        """
        sample = slot.sample
        if sample.scores or not self.reuse:
            return slot, sample.read
        shared = {other: self._shared(other.held, sample.request.prompt) for other in self.slots}
        best = max(shared, key=lambda other: (shared[other], other is slot))
        return best, shared[best]

    def _shared(self, held: tuple[int, ...], prompt: tuple[int, ...]) -> int:
        at, chunk = 0, self.chunk
        while at + chunk < len(prompt) and held[at:at + chunk] == prompt[at:at + chunk]:
            at += chunk
        return at

    def filled(self, slot: Slot, tokens: int) -> None:
        """The first `tokens` of its prompt are now in a slot."""
        slot.sample.read, slot.held = tokens, slot.sample.request.prompt[:tokens]
        self._touch(slot, slot.sample)

    def holder(self, prompt: tuple[int, ...]) -> Slot | None:
        """A slot that holds all of a prompt."""
        return next((slot for slot in self.slots if slot.held == prompt), None)

    def release(self, slot: Slot) -> None:
        self._touch(slot, None)

    def withdraw(self, ticket: Ticket) -> list[Slot]:
        """Take a request out wherever it is; the slots it had."""
        self.waiting = deque(sample for sample in self.waiting if sample.ticket is not ticket)
        left = [slot for slot in self.taken if slot.sample.ticket is ticket]
        for slot in left:
            self.release(slot)
        return left

    def forget(self) -> None:
        """Nothing that was read before is reused."""
        for slot in self.slots:
            slot.held = ()
