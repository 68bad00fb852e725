"""A model folder that answers: its renderer, its ends and an engine, for one person or for a file of prompts."""

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

from bloomery.core.errors import BloomeryError
from bloomery.core.records import Message
from bloomery.decoding import Decoding
from bloomery.generate.engine import Engine
from bloomery.generate.request import Request
from bloomery.generate.sampling import Sampling
from bloomery.model.store import load_generation, load_model
from bloomery.text.chat import load_renderer
from bloomery.train.precision import choose, placed

OWN = {field.name for field in fields(Sampling)} & set(Decoding.model_fields)


def sampling(options: Decoding) -> Sampling:
    return Sampling(**options.model_dump(include=OWN))


class Speaker:
    """A model folder one can talk to. A folder without a tokenizer takes and gives token ids."""

    def __init__(self, folder: Path, *, precision: str = "fp32", device: str = "auto"):
        compute = choose(precision, device=device)[0]
        self.model = load_model(folder, compute=compute, dtype=compute).eval().to(placed(device))
        self.renderer = load_renderer(folder) if (Path(folder) / "tokenizer.json").is_file() else None
        self.tokenizer = self.renderer.tokenizer if self.renderer else None
        ends = load_generation(folder).get("eos_token_id")
        self.ends = frozenset([ends] if isinstance(ends, int) else ends or ())
        self.engine: Engine | None = None

    @property
    def answers(self) -> bool:
        """Whether the model was taught to answer: its generations end with a turn. Else it continues text."""
        return self.renderer is not None and self.renderer.answers(self.ends)

    def open(self, *, slots: int = 1, context: int | None = None) -> Engine:
        """An engine with nothing under way; the one before is forgotten."""
        self.engine = Engine(self.model, self.tokenizer, slots=slots, context=context)
        return self.engine

    def request(self, prompt: list[int], options: Decoding, *, n: int = 1, seed: int = 0) -> Request:
        """What the engine is asked for after these ids: it ends with a turn, a document, or as the folder says."""
        ends = self.ends | (self.renderer.ends if self.renderer else set())
        return Request(tuple(prompt), options.max_tokens, how=sampling(options), n=n, seed=seed, ends=ends,
                       stops=tuple(options.stop), min_tokens=options.min_tokens)

    def reply(self, messages: tuple[Message, ...], options: Decoding) -> Iterator[str]:
        """The assistant's next message, in pieces as they are decoded; what earlier turns share is not read again."""
        engine = self.engine or self.open()
        ticket = engine.submit(self.request(self.renderer.prompt(messages), options, seed=options.seed))
        try:
            while not ticket.finished:
                for event in engine.step():
                    yield event.text
        except GeneratorExit:
            engine.cancel(ticket)
            raise
        except BaseException:
            self.engine = None                  # stopped inside a step, its cache may be half written
            raise
        if ticket.error:
            raise BloomeryError("the answer could not be finished", why=ticket.error)
