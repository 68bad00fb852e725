"""The one decoder: many requests at once, each answered as if it were alone.

A step admits who waits, reads a chunk of a few prompts, decodes one token of every live row, chooses and hands out.
What a request gets does not depend on its neighbours, its slot, or whether its prompt was read before: a prompt is read
in chunks on one grid, and rows that are read or decoded at a time are rounded up to a multiple of eight, for which a
CPU's matrix products give each row the same bits (`determinism.py` looks whether they do, or has all slots decoded).

A row that has ended takes no more time; no slot can overflow, so that nobody is ever evicted half-way.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from math import isnan

import torch
from torch import Tensor

from bloomery.core.errors import BloomeryError, InputError
from bloomery.core.metrics import progress as told
from bloomery.data.likelihood import score_answers
from bloomery.generate.request import Completion, Event, Request, Ticket
from bloomery.generate.sampling import Row, Token, choose, likeliest
from bloomery.generate.scheduler import Sample, Scheduler, Slot
from bloomery.generate.vectors import check, vectors
from bloomery.model.cache import Cache, kept_as
from bloomery.model.packed import packed
from bloomery.model.prefix import cache_for
from bloomery.model.transformer import Transformer
from bloomery.text.tokenizer import Tokenizer

ROWS = 8                        # rows of a decode step are rounded up to a multiple of this
TOGETHER = 8                    # prompts of which a chunk each is read at once, where nobody waits for his next token
MEANWHILE = 4                   # the same where others do: of 1, first tokens come a quarter later, of 8 no sooner
PATIENCE = 4                    # slots that are free before new prompts are let in, where nobody waits: read together
COPIED = 3                      # a copied key is read, written and read again


class Engine:
    """Serves one model from one thread. Without a `tokenizer` completions have ids and no text.

    With `own` the model is the engine's alone: of weights that are laid out anew for decoding no plain copy is kept.
    """

    def __init__(self, model: Transformer, tokenizer: Tokenizer | None = None, *, slots: int = 32,
                 context: int | None = None, chunk: int = 64, reuse: bool = True, own: bool = False):
        if not model.config.causal:
            raise InputError("an encoder does not write text", why="its tokens see those behind them",
                             hint="classify, qa and predict are for encoders; give a decoder here")
        self.tokenizer, self.context = tokenizer, context or model.config.context
        if not 0 < self.context <= model.config.context:
            raise ValueError(f"context must lie between 1 and the model's {model.config.context}, got {context}")
        self.scheduler = Scheduler(slots, chunk, reuse=reuse)
        self.device, self.chunk, self.own = model.head.weight.device, chunk, own
        self.decoder = packed(model)
        self.model = self.decoder if own else model
        self.every, self.rows, self.fixed = range(slots), ROWS if slots > 1 else 1, False
        self.together, self.meanwhile = min(slots, TOGETHER), min(slots, MEANWHILE)
        self.cache = self._emptied()
        self.stats: Counter[str] = Counter()
        self._first: dict[Ticket, Tensor] = {}          # logits (1, V) after a prompt, while samples of it will begin
        self._events: list[Event] = []
        self._next: Transformer | None = None

    def _emptied(self) -> Cache:
        """Slots in which nothing was read."""
        slots, capacity = len(self.scheduler.slots), -(-self.context // self.chunk) * self.chunk
        with self._beside():
            return cache_for(self.model, slots, capacity, dtype=kept_as(self.model.compute, self.device))

    @property
    def busy(self) -> bool:
        """Whether a step has anything to do."""
        return not self.scheduler.resting

    @property
    def free_slots(self) -> int:
        return len(self.scheduler.free)

    @property
    def waiting(self) -> int:
        """Samples that have no slot yet."""
        return len(self.scheduler.waiting)

    def submit(self, request: Request) -> Ticket:
        """Queue a request. `InputError` for one that can never be answered."""
        prompt, vocabulary, slots = request.prompt, self.model.config.vocabulary, len(self.scheduler.slots)
        room = self.context - (request.max_tokens > 0)
        problem = (
            f"it has {len(prompt)} tokens, the model reads 1 to {room} and then answers"
            if not 0 < len(prompt) <= room else
            f"token id {min(prompt) if min(prompt) < 0 else max(prompt)} is not one of the {vocabulary}"
            if not 0 <= min(prompt) <= max(prompt) < vocabulary else
            f"{request.n} completions are asked for, and there are {slots} slots" if request.n > slots else
            "it has stop strings, and without a tokenizer there is no text to find them in"
            if request.stops and self.tokenizer is None else "")
        if problem:
            raise InputError("a prompt cannot be continued", why=problem)
        request.how.check(vocabulary)
        ticket = Ticket(request, self.tokenizer)
        self.scheduler.submit(ticket)
        self.stats["requests"] += 1
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Its slots are free when this returns; what it has said so far stays."""
        self._stop(ticket, "cancelled")
        self._swap()

    def _stop(self, ticket: Ticket, finish: str) -> list[Event]:
        ended = [ticket.end(index, finish) for index, one in enumerate(ticket.completions) if not one.finish]
        for slot in self.scheduler.withdraw(ticket):
            if finish == "error":           # what it holds may not even be numbers, which outlast a mask
                slot.held = ()
                self.cache.wipe(slot.number)
            self._vacate(slot)
        self._first.pop(ticket, None)
        return ended

    def _vacate(self, slot: Slot) -> None:
        """The prompt stays where it is; an idle row's dummy goes behind it, so there must be room for one."""
        slot.held = slot.held[:self.context - 1]
        self.cache.truncate(slot.number, len(slot.held))
        self.scheduler.release(slot)

    @torch.no_grad()
    def step(self, *, fill: bool = False) -> list[Event]:
        """One round. `fill` reads all prompts that have a slot first, and lets new ones in a few at a time: more tokens
        a second, longer waits for each."""
        going = any(not slot.sample.ticket.paused for slot in self.scheduler.taken)
        if not (fill and going and self.free_slots < min(PATIENCE, self.waiting)):
            self.scheduler.admit()
        while self._read(self.together if fill else self.meanwhile) and fill:
            pass
        starting = self._starting()
        live = [slot for slot in self.scheduler.taken if slot.sample.said and not slot.sample.ticket.paused]
        logits = [self._first[slot.sample.ticket] for slot in starting] + ([self._decode(live)] if live else [])
        if logits:
            self._choose(starting + live, torch.cat(logits))
        self._first = {ticket: kept for ticket, kept in self._first.items()
                       if not all(one.tokens or one.finish for one in ticket.completions)}
        self._swap()
        self.stats["steps"] += 1
        events, self._events = self._events, []
        return events

    def _read(self, most: int = 1) -> bool:
        """Read a chunk each of up to `most` prompts whose turn it is, if there are any."""
        slots = self.scheduler.readers(self._first, most=most)
        try:
            if slots:
                self._read_chunks(slots)
        except Exception as error:          # whatever it is, only these requests are lost, and only one if it can be
            for slot in slots:
                if len(slots) == 1 or not self._read():
                    self._fail(slot.sample.ticket, error)
        return bool(slots)

    def _read_chunks(self, slots: list[Slot]) -> None:
        chunks = [self._begun(slot) for slot in slots]
        rounded = -(-max(map(len, chunks)) // ROWS) * ROWS
        length = self.chunk if self.fixed else min(rounded, self.chunk)
        padded = [id for ids in chunks for id in (*ids, *[0] * (length - len(ids)))]
        numbers = [slot.number for slot in slots]
        hidden = self._forward(numbers, padded).unflatten(0, (len(slots), -1))               # (B, chunk, D)
        self.cache.advance(numbers)
        for slot, ids, own in zip(slots, chunks, hidden, strict=True):
            sample, ticket = slot.sample, slot.sample.ticket
            start = sample.read
            self.cache.truncate(slot.number, start + len(ids))
            self.scheduler.filled(slot, start + len(ids))
            self.stats["prompt_tokens"] += len(ids)
            if sample.scores:
                ticket.prompt_tokens += self._scored(own, sample.request, start)
            if sample.ready:
                self._first[ticket] = self.decoder.logits(own[len(ids) - 1:len(ids)]).cpu()

    def _begun(self, slot: Slot) -> tuple[int, ...]:
        """The next chunk of a slot's prompt, after what another slot could give it."""
        sample, ticket = slot.sample, slot.sample.ticket
        source, start = self.scheduler.prefix(slot)
        if sample.index == 0:
            ticket.cached_tokens += start - sample.read
            self.stats["cached_tokens"] += start - sample.read
        self._take(source, slot, start)
        return sample.request.prompt[start:start + self.chunk]

    def _take(self, source: Slot, slot: Slot, tokens: int, *, lent: bool = False) -> None:
        """The first `tokens` tokens of `source`, those of the prompt of `slot`, are now all that is in it."""
        slot.held = ()                          # until it is so: a step may be interrupted
        if source is not slot:
            (self.cache.lend if lent else self.cache.copy)(source.number, slot.number, tokens)
        self.cache.truncate(slot.number, tokens)
        self.scheduler.filled(slot, tokens)

    def _forward(self, slots: list[int], ids: list[int], *, padding: int = 0) -> Tensor:
        """Hidden states of equally many tokens for each of these slots, (N, D), and of `padding` tokens of none.

        A padded chunk may reach behind the context, where learned positions end: it is moved to the last of them.
        """
        with self._beside():
            positions = self.cache.feed(slots, [len(ids) // len(slots)] * len(slots), padding=padding)
            padded = torch.tensor([*ids, *[0] * padding])
            return self.decoder(padded, positions.clamp(max=self.model.config.context - 1), self.cache)

    def _scored(self, hidden: Tensor, request: Request, start: int) -> list[Token]:
        """The prompt's own tokens that these hidden states predict; what is cut off predicts padding."""
        targets = request.prompt[start + 1:start + self.chunk + 1]
        return scored(self.decoder.logits(hidden).cpu()[:len(targets)], targets, request.alternatives)

    def _starting(self) -> list[Slot]:
        """The slots that draw their first token now: where a prompt was read to its end, and its siblings' by copy."""
        starting = []
        for slot in self.scheduler.taken:
            sample = slot.sample
            if sample.said or sample.ticket.paused or sample.ticket not in self._first:
                continue
            source = self.scheduler.holder(sample.request.prompt)
            if not (sample.ready or sample.scores) and source:
                self._take(source, slot, len(sample.request.prompt), lent=True)
            if sample.ready and sample.request.max_tokens == 0:
                self._events.append(sample.ticket.end(sample.index, "length"))
                self._vacate(slot)
            elif sample.ready:
                starting.append(slot)
        return starting

    def _decode(self, live: list[Slot]) -> Tensor:
        """Logits after the last token of each live row, (B, V).

        Without a kernel neighbouring slots are read where they lie, others are copied first; so a gap is filled with
        idle rows, unless that reads more keys than copying would.
        """
        last, lengths = {slot.number: slot.sample.said[-1] for slot in live}, self.cache.lengths
        window = range(min(last), max(last) + 1)
        reading = len(window) * max(lengths[number] for number in window)
        copying = COPIED * len(last) * max(lengths[number] for number in last)
        gap = reading <= copying and not self.cache.kernel
        fed = list(self.every if self.fixed else window if gap else last)
        hidden = self._forward(fed, [last.get(number, 0) for number in fed], padding=-len(fed) % self.rows)
        self.cache.advance(list(last))
        logits = self.decoder.logits(hidden)
        return (logits[:len(fed)] if fed == list(last) else logits[[fed.index(number) for number in last]]).cpu()

    def _choose(self, slots: list[Slot], logits: Tensor) -> None:
        """The next token of each of these slots, handed out."""
        samples = [slot.sample for slot in slots]
        tokens = chosen(logits, [row(sample) for sample in samples])
        for slot, sample, token in zip(slots, samples, tokens, strict=True):
            ticket = sample.ticket
            if isinstance(token, Exception):
                self._fail(ticket, token)
            elif not ticket.completions[sample.index].finish:       # else a sibling has just failed
                sample.said.append(token.id)
                full = len(sample.request.prompt) + len(sample.said) > self.context
                self._events.append(ticket.add(sample.index, token, full=full))
                self.stats["generated_tokens"] += 1
                if self._events[-1].finish:
                    self._vacate(slot)

    def _fail(self, ticket: Ticket, error: Exception) -> None:
        ticket.error = f"{type(error).__name__}: {error}"
        self._events += self._stop(ticket, "error")

    def generate(self, requests: Iterable[Request], *, progress: str | None = None) -> list[list[Completion]]:
        """Completions of all requests, in their order; `progress` names the line that says how far it is.

        Raises `InputError` for a request that can never be answered, `BloomeryError` for one that failed.
        """
        done: dict[int, list[Completion]] = {}
        ended = self.each(requests)
        for number, ticket in told(ended, name=progress) if progress else ended:
            if ticket.error:
                raise BloomeryError("a completion failed", where=f"prompt {number}", why=ticket.error)
            done[number] = ticket.completions
        return [done[number] for number in range(len(done))]

    def each(self, requests: Iterable[Request]) -> Iterator[tuple[int, Ticket]]:
        """(number, ticket) of every request as it ends. Requests are drawn when slots are to be filled."""
        going: dict[Ticket, int] = {}
        queue = enumerate(requests)
        try:
            while True:
                while self.waiting <= self.free_slots and (pair := next(queue, None)):
                    going[self._submit_numbered(*pair)] = pair[0]
                if not going:
                    return
                self.step(fill=True)
                for ticket in [ticket for ticket in going if ticket.finished]:
                    yield going.pop(ticket), ticket
        finally:
            for ticket in going:
                self.cancel(ticket)

    def _submit_numbered(self, number: int, request: Request) -> Ticket:
        try:
            return self.submit(request)
        except InputError as error:
            error.where = f"prompt {number}"
            raise

    def load(self, model: Transformer) -> None:
        """Serve other weights of the same shape: at once, or when those who have begun are done; the rest waits.

        What was read with the old weights is forgotten. A layer is laid out anew only where its own weight has changed;
        a model that is trained while it is served is to be loaded again after every step.
        """
        if model.config != self.model.config:
            raise InputError("these weights do not fit", why="they are of a model of another shape",
                             hint="start another engine for it")
        self._next, self.scheduler.closing = model, True
        self._swap()

    def _swap(self) -> None:
        if self._next is not None and self.scheduler.empty:
            self.decoder = packed(self._next, self.decoder)
            self.model = self.decoder if self.own else self._next
            self._next, self.scheduler.closing = None, False
            self.forget()
            if self.cache.before:
                self.cache = self._emptied()                    # with the new weights' prefix

    def forget(self) -> None:
        """No prompt that was read before is reused."""
        self.scheduler.forget()
        for slot in self.scheduler.free:
            self.cache.clear(slot.number)

    def score(self, contexts: list[list[int]], continuations: list[list[list[int]]]) -> list[list[float]]:
        """log p of every continuation of every context, summed over its tokens; a context is read once.

        A forest, as in training: each token's is what the trainer would compute, to the bit; they are added in double.
        """
        for number, (context, group) in enumerate(zip(contexts, continuations, strict=True)):
            longest = max(map(len, group), default=1)
            if not context or not all(group) or len(context) + longest > self.context + 1:
                raise InputError("a continuation cannot be scored", where=f"context {number}",
                                 why=f"it has {len(context)} tokens and continuations of up to {longest}, the model "
                                     f"reads {self.context}; neither may be empty")
        asked = [(context, group) for context, group in zip(contexts, continuations, strict=True) if group]
        scores = iter(score_answers(self.model, *map(list, zip(*asked, strict=True)), sums=torch.float64)
                      if asked else ())
        return [next(scores) if group else [] for group in continuations]

    @torch.no_grad()
    def embed(self, inputs: list[list[int]], pooling: str = "mean") -> Tensor:
        """What the model makes of each input: hidden states pooled by `POOLING`, of length one, (B, D) fp32."""
        check(inputs, self.context)
        return vectors(self.model, inputs, pooling)

    def _beside(self) -> AbstractContextManager:
        """Tensors made inside lie where the weights are."""
        return nullcontext() if self.device.type == "cpu" else self.device


def row(sample: Sample) -> Row:
    """What the choice of a sample's next token depends on."""
    request = sample.request
    return Row(request.how, request.prompt, sample.said, request.seed, sample.index,
               forbidden=request.ends if len(sample.said) < request.min_tokens else frozenset(),
               alternatives=request.alternatives)


def chosen(logits: Tensor, rows: list[Row]) -> list[Token | Exception]:
    """A token for every row of logits (B, V), or why there is none: an error of one row is no other row's."""
    try:
        return [FloatingPointError("the model's logits are not finite") if isnan(token.raw + token.logp) else token
                for token in choose(logits, rows)]
    except Exception as error:
        if len(rows) == 1:
            return [error]
        return [found for i, one in enumerate(rows) for found in chosen(logits[i:i + 1], [one])]


def scored(logits: Tensor, targets: Sequence[int], alternatives: int) -> list[Token]:
    """The tokens (T,) that logits (T, V) were followed by, with the model's own log-probabilities."""
    logp = logits.log_softmax(-1)
    own = logp.gather(-1, torch.tensor(targets, dtype=torch.int64)[:, None])[:, 0].tolist()
    return [Token(id, value, value, likeliest(line, alternatives))
            for id, value, line in zip(targets, own, logp, strict=True)]
