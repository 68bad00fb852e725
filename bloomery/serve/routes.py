"""What each route does, and how a stream is told.

A route reads its body, asks the worker and tidies up in `finally`; `limits.py` cancels it when its client leaves.  What
takes long is done elsewhere: text is encoded in a thread, weights are read in a thread, the engines have theirs.
"""

import asyncio
import base64
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from bloomery.core.config import Settings, nearest
from bloomery.core.errors import BloomeryError, InputError
from bloomery.generate.engine import Engine
from bloomery.generate.request import Event, Request, Ticket
from bloomery.generate.vectors import Reader
from bloomery.serve.asking import chat_ids, check_room, engine_requests, vector_ids
from bloomery.serve.choosing import LOGP, beams, best_of, judged_by, spoken
from bloomery.serve.chunks import ChatWriter, Said, TextWriter, Writer, counted, streamed, usage
from bloomery.serve.counters import Counters
from bloomery.serve.models import Models, Served, reread
from bloomery.serve.reading import ApiError, invalid, read, refused
from bloomery.serve.schema import ChatRequest, CompletionRequest, DetokenizeRequest, EmbeddingRequest, TokenizeRequest
from bloomery.serve.settings import ServeSettings
from bloomery.serve.spelling import Spelling
from bloomery.serve.worker import EngineFault, Stream, TooSlow, Worker

try:
    from starlette.requests import Request as HttpRequest
    from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
except ImportError as error:
    raise BloomeryError("starlette is not installed", why=str(error), hint="pip install 'bloomery[serve]'") from error

R = TypeVar("R", bound=Settings)
EMBEDDED = 4096             # tokens that are embedded in one step of the engines' thread
NOT_CACHED = {"cache-control": "no-cache", "x-accel-buffering": "no"}


@dataclass
class Api:
    """The state behind the routes."""

    models: Models
    settings: ServeSettings
    worker: Worker
    deterministic: bool = True
    why: str = ""                               # answers may differ in bytes, and why
    counters: Counters = field(default_factory=Counters)
    spellings: dict[str, Spelling] = field(default_factory=dict)
    reloading: asyncio.Lock = field(default_factory=asyncio.Lock)

    # --- what every route does ------------------------------------------------------------------------------------

    async def read(self, model: type[R], request: HttpRequest) -> tuple[R, dict[str, str]]:
        """The request, and the header that lists what a lenient server left out."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise ApiError(415, f"the body must be application/json, not {kind or 'of no type'}",
                           code="unsupported_media_type")
        body, ignored = read(model, await request.body(), self.settings)
        listed = ",".join(name.encode("ascii", "backslashreplace").decode() for name in ignored)
        return body, {"x-ignored-fields": listed[:1000]} if ignored else {}

    def served(self, name: str, *, needs: str = "", param: str = "model") -> Served:
        """A model of the table; 404 for another name, 400 for one that cannot do what it is asked."""
        found = self.models.table.get(name)
        if found is None:
            near = nearest(name, list(self.models.table))
            raise ApiError(404, "there is no such model; " + (f"did you mean {near}?" if near else
                           f"there are {', '.join(self.models.table)}"), param=param, code="model_not_found")
        if needs == "reward" and found.reward is None:
            raise invalid(f"{name} is no reward model", param)
        if needs != "reward" and found.engine is None:
            raise invalid(f"{name} is a reward model: it judges answers, named in `reward`", "model")
        if needs in ("chat", "text") and found.kind == "embedding":
            raise invalid(f"{name} makes vectors and writes nothing; use /v1/embeddings", "model")
        if needs == "chat" and found.kind != "chat":
            raise invalid(f"{name} continues text and has not learned to chat; use /v1/completions", "model")
        return found

    def spelling(self, served: Served) -> Spelling:
        if served.id not in self.spellings:
            self.spellings[served.id] = Spelling(served.tokenizer)
        return self.spellings[served.id]

    def check_queue(self, served: Served, samples: int) -> None:
        """More than `queue` answers waiting for a slot is too many."""
        if self.worker.open[served.id] + samples > self.settings.slots + self.settings.queue:
            raise ApiError(429, f"{self.settings.queue} answers are waiting already", kind="rate_limit_error",
                           code="queue_full")

    @contextmanager
    def occupying(self, served: Served, samples: int) -> Iterator[None]:
        """Work without slots takes its place among what is under way all the same."""
        self.check_queue(served, samples)
        self.worker.open[served.id] += samples
        try:
            yield
        finally:
            self.worker.open[served.id] -= samples

    # --- completions ----------------------------------------------------------------------------------------------

    async def chat(self, request: HttpRequest) -> Response:
        body, headers = await self.read(ChatRequest, request)
        served = self.served(body.model, needs="chat")
        writer = ChatWriter(served.id, self.spelling(served), reports=bool(body.logprobs))
        return await self.answer(writer, served, body, headers)

    async def completions(self, request: HttpRequest) -> Response:
        body, headers = await self.read(CompletionRequest, request)
        served = self.served(body.model, needs="text")
        writer = TextWriter(served.id, self.spelling(served), reports=body.logprobs is not None)
        return await self.answer(writer, served, body, headers)

    async def answer(self, writer: Writer, served: Served, body: ChatRequest | CompletionRequest,
                     headers: dict[str, str]) -> Response:
        """Whole or in chunks; best-of-n and beams are whole."""
        for name in judged_by(body):
            if name != LOGP:
                self.served(name, needs="reward", param="reward")
        requests = await asyncio.to_thread(engine_requests, served, body)
        self.check_queue(served, sum(request.n for request in requests))
        writer.ids, writer.ends = bool(body.return_token_ids), requests[0].ends
        writer.usage = bool(body.stream_options and body.stream_options.include_usage)
        if body.num_beams > 1:
            return JSONResponse(await self.searched(writer, served, body, requests), headers=headers)
        streams: list[Stream] = []
        arrived = asyncio.Event() if body.stream else None
        try:
            for request in requests:
                streams.append(await self.submitted(served, request, quiet=not body.stream, arrived=arrived))
            if isinstance(body, CompletionRequest) and body.echo:
                for number, stream in enumerate(streams):
                    for sample in range(stream.request.n):
                        writer.echo(number * stream.request.n + sample, stream.ticket)
            if body.stream:
                pieces = told(writer, streams, self.settings.ping_seconds, self.counters)
                streams, watched = [], streams
                return EventStream(pieces, watched, headers | NOT_CACHED)
            await asyncio.gather(*(drained(stream) for stream in streams))
            tickets = [stream.ticket for stream in streams]
            return JSONResponse(await self.whole(writer, served, body, tickets), headers=headers)
        finally:
            for stream in streams:
                stream.cancel()

    async def submitted(self, served: Served, request: Request, **how: Any) -> Stream:
        try:
            return await self.worker.submit(served.id, request, **how)
        except InputError as error:
            raise refused(error) from None

    async def whole(self, writer: Writer, served: Served, body: ChatRequest | CompletionRequest,
                    tickets: list[Ticket]) -> dict[str, Any]:
        said: list[Said] = []
        chosen = []
        for ticket in tickets:
            if body.best_of or body.reward:
                kept, told_of = await best_of(self.models, self.worker, served, body, ticket)
                said += kept
                chosen.append(told_of)
            else:
                said += [Said.of(one) for one in ticket.completions]
        choices = [writer.choice(index, one) for index, one in enumerate(said)]
        how = (chosen[0] if isinstance(body, ChatRequest) else chosen) if chosen else None
        return writer.whole(choices, usage(tickets), best_of=how)

    async def searched(self, writer: Writer, served: Served, body: ChatRequest | CompletionRequest,
                       requests: list[Request]) -> dict[str, Any]:
        said = []
        for request in requests:
            with self.occupying(served, body.num_beams):
                try:
                    found = await self.worker.call(served.id, beams(request, body))
                except InputError as error:
                    raise refused(error) from None
            said += [spoken(served, beam) for beam in found]
        choices = [writer.choice(index, one) for index, one in enumerate(said)]
        return writer.whole(choices, counted(sum(len(request.prompt) for request in requests),
                                             sum(len(one.ids) for one in said)))

    # --- embeddings and tokens ------------------------------------------------------------------------------------

    async def embeddings(self, request: HttpRequest) -> Response:
        body, headers = await self.read(EmbeddingRequest, request)
        served = self.served(body.model)
        inputs = await asyncio.to_thread(vector_ids, served, body.input)
        for ids in inputs:
            check_room(served, ids, "input")
        pooling = body.pooling or (served.pooling or "mean" if self.settings.pooling == "auto" else
                                   self.settings.pooling)

        def embedded(engine: Engine | Reader) -> Generator[None, None, torch.Tensor]:
            rows, group = [], []
            for ids in [*inputs, None]:
                if group and (ids is None or sum(map(len, group)) + len(ids) > EMBEDDED):
                    rows.append(engine.embed(group, pooling))
                    group = []
                    yield
                group += [] if ids is None else [ids]
            return torch.cat(rows)

        with self.occupying(served, 1):
            vectors = (await self.worker.call(served.id, embedded)).float().cpu().numpy()          # (B, D)
        as_text = body.encoding_format == "base64"
        data = [{"object": "embedding", "index": index, "embedding":
                 base64.b64encode(vector.astype("<f4").tobytes()).decode() if as_text else vector.tolist()}
                for index, vector in enumerate(vectors)]
        tokens = sum(map(len, inputs))
        return JSONResponse({"object": "list", "data": data, "model": served.id,
                             "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}, headers=headers)

    async def tokenize(self, request: HttpRequest) -> Response:
        body, headers = await self.read(TokenizeRequest, request)
        served = self.served(body.model)
        if body.messages is not None:
            ids = await asyncio.to_thread(chat_ids, served, body.messages)
        else:
            ids = await asyncio.to_thread(served.tokenizer.encode, body.prompt)
        return JSONResponse({"tokens": ids, "count": len(ids), "max_model_len": served.context}, headers=headers)

    async def detokenize(self, request: HttpRequest) -> Response:
        body, headers = await self.read(DetokenizeRequest, request)
        served = self.served(body.model)
        size = served.tokenizer.size
        if wrong := next((token for token in body.tokens if token >= size), None):
            raise invalid(f"tokens: {served.id} has no token id {wrong}", "tokens")
        return JSONResponse({"prompt": served.tokenizer.decode(body.tokens, keep_control=True)}, headers=headers)

    # --- models, health, metrics ----------------------------------------------------------------------------------

    async def list_models(self) -> Response:
        return JSONResponse({"object": "list", "data": [served.card() for served in self.models.table.values()]})

    async def get_model(self, model_id: str) -> Response:
        found = self.models.table.get(model_id)
        return JSONResponse((found or self.served(model_id)).card())

    async def reload(self, model_id: str) -> Response:
        """Serve the newest checkpoint of a training, or what a model's folder holds now."""
        served = self.served(model_id)
        async with self.reloading:
            try:
                found = await asyncio.to_thread(reread, served, self.settings)
            except InputError as error:
                raise ApiError(409, error.what, code="reload_failed") from None
            if found:
                model, checkpoint = found
                await self.worker.call(served.id, lambda engine: engine.load(model))
                served.checkpoint = checkpoint
                self.worker.faults.pop(served.id, None)
        return JSONResponse({"id": served.id, "changed": found is not None,
                             "checkpoint": served.checkpoint.name if served.checkpoint else ""})

    async def health(self) -> Response:
        """200 as long as every model answers; the engines' thread must be going round."""
        models = {name: self.worker.faults.get(name, "ok") if self.worker.alive else "the engines have stopped"
                  for name in self.models.engines}
        well = self.worker.healthy
        return JSONResponse({"status": "ok" if well else "failed", "deterministic": self.deterministic,
                             "models": models, "why": self.why}, 200 if well else 503, NOT_CACHED)

    async def metrics(self) -> Response:
        return PlainTextResponse(self.counters.text(self.worker), media_type="text/plain; version=0.0.4")


# --- streams ------------------------------------------------------------------------------------------------------

class EventStream(StreamingResponse):
    """Server-sent events; however it ends, the slots behind it are freed."""

    def __init__(self, pieces: AsyncIterator[str], streams: list[Stream], headers: dict[str, str]):
        super().__init__(pieces, media_type="text/event-stream", headers=headers)
        self.streams = streams

    async def __call__(self, *asgi: Any) -> None:
        try:
            await super().__call__(*asgi)
        finally:
            for stream in self.streams:
                stream.cancel()


async def told(writer: Writer, streams: list[Stream], ping: float, counters: Counters) -> AsyncIterator[str]:
    """The body of a stream; what fails on the way is said in it."""
    events = counters.timed(merged(streams, ping))
    try:
        async for piece in streamed(writer, [stream.ticket for stream in streams], events):
            if piece:
                yield piece
    except (EngineFault, TooSlow) as error:
        failed = server_error(error)
        yield f"data: {JSONResponse(failed.body()).body.decode()}\n\ndata: [DONE]\n\n"


async def merged(streams: list[Stream], ping: float) -> AsyncIterator[tuple[int, Event] | None]:
    """Events of streams that share `arrived`, as they come, with their stream's number; None after `ping` s without."""
    left = dict(enumerate(streams))
    while left:
        arrived = next(iter(left.values())).arrived
        arrived.clear()
        for number, stream in list(left.items()):
            while (event := stream.pop()) is not None:
                yield number, event
            if stream.over and not stream.waiting:
                del left[number]
        if left:
            try:
                async with asyncio.timeout(ping):
                    await arrived.wait()
            except TimeoutError:
                yield None


async def drained(stream: Stream) -> None:
    async for _ in stream:
        pass


def server_error(error: Exception) -> ApiError:
    message = "; ".join(part for part in (error.what, error.why) if part)
    return ApiError(500, message, kind="server_error", code="engine_error" if isinstance(error, EngineFault) else
                    "reader_too_slow")
