"""What stands before the application: who may come in, how much they may bring, how long they may stay.

Pure ASGI throughout.  A middleware that is handed a `Request` (Starlette's `BaseHTTPMiddleware`) never learns that the
client has left, and a route that does not stream never asks; here one watcher owns `receive` for every request and
cancels the application when the client goes, so a route only has to tidy up in `finally`.

A check looks at a request's head and returns None, or the `Refusal` that answers it; all of them come before a byte of
the body is read.  Refusals have OpenAI's shape and codes, and say `x-should-retry: false` where asking again cannot
help, since that client repeats 408, 409, 429 and all from 500 on.
"""

import asyncio
import hmac
import json
import re
import time
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from bloomery.core.errors import BloomeryError
from bloomery.core.metrics import say
from bloomery.serve.settings import ServeSettings, is_loopback, read_keys

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN_PATHS, OPEN_FOLDER = ("/", "/health"), "/static/"      # no key: the page itself, and whether the server is well
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")                   # change nothing, so a foreign page may cause them
NO_RETRY = (b"x-should-retry", b"false")
PROTECTION = (
    (b"content-security-policy", b"default-src 'self'; base-uri 'none'; object-src 'none'; form-action 'self'; "
                                 b"frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer"), (b"x-frame-options", b"DENY"),
    (b"cross-origin-resource-policy", b"same-origin"), (b"cross-origin-opener-policy", b"same-origin"))
BRACKETS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[{]|[\]}]', re.DOTALL)     # possessive: linear on any bytes


@dataclass(frozen=True)
class Refusal:
    """An answer without the application: status, message, OpenAI's `code` and error type, further headers."""

    status: int
    message: str
    code: str
    kind: str = "invalid_request_error"
    headers: tuple[tuple[bytes, bytes], ...] = (NO_RETRY,)

    def error(self) -> bytes:
        return json.dumps({"error": {"message": self.message, "type": self.kind, "param": None,
                                     "code": self.code}}).encode()

    async def answer(self, send: Send) -> None:
        body = self.error()
        await send({"type": "http.response.start", "status": self.status, "headers": [
            (b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *self.headers]})
        await send({"type": "http.response.body", "body": body})


Check = Callable[[Scope], Refusal | None]
TOO_LATE = Refusal(408, "the request took longer than this server allows", "deadline_exceeded", "timeout_error")
FULL = Refusal(503, "this server is answering as many requests as it takes", "server_full", "server_error",
               ((b"retry-after", b"1"),))
BROKEN = Refusal(500, "the server failed on this request; its log says where", "internal_error", "server_error")


def guarded(app: App, settings: ServeSettings, keys: Iterable[bytes] | None = None) -> App:
    """The application behind every limit; `keys` are SHA-256 digests, by default those of `read_keys`."""
    keys = read_keys(settings) if keys is None else tuple(keys)
    inner = attended(app, settings)
    inner = checked(counted(inner, settings), [lambda scope: without_key(scope, keys)])
    inner = shared(inner, settings)
    inner = checked(inner, [lambda scope: large_head(scope, settings), lambda scope: foreign_host(scope, settings),
                            lambda scope: foreign_page(scope, settings)])
    return labelled(limited(inner, settings), settings)


# --- checks of a request's head -----------------------------------------------------------------------------------

def header(scope: Scope, name: bytes) -> str | None:
    """The value of a header that stands once; None for one that is absent, "" for one that stands twice."""
    found = [value for key, value in scope["headers"] if key == name]
    return None if not found else found[0].decode("latin-1").strip() if len(found) == 1 else ""


def large_head(scope: Scope, settings: ServeSettings) -> Refusal | None:
    """Headers and the address within bounds, before anything reads them. 431 and 414 (RFC 6585, RFC 9110)."""
    headers, address = scope["headers"], len(scope.get("raw_path") or b"") + len(scope.get("query_string", b""))
    size = sum(len(name) + len(value) for name, value in headers)
    if len(headers) > settings.headers or size > settings.header_bytes:
        return Refusal(431, f"{len(headers)} headers of {size} bytes; this server takes {settings.headers} of "
                            f"{settings.header_bytes}", "headers_too_large")
    if address > settings.header_bytes:
        return Refusal(414, f"an address of {address} bytes is too long", "address_too_long")
    return None


def foreign_host(scope: Scope, settings: ServeSettings) -> Refusal | None:
    """A loopback server is asked for by a loopback name only.

    Else a page of any site could point its own name at 127.0.0.1 and read what the server says (DNS rebinding).
    """
    if not (is_loopback(settings.host) or settings.hosts):
        return None
    name = hostname(header(scope, b"host") or "")
    if is_loopback(name) or name in {settings.host.lower(), *(host.lower() for host in settings.hosts)}:
        return None
    return Refusal(403, "the Host header does not name this server; further names are given with --hosts",
                   "host_not_allowed", "permission_error")


def hostname(netloc: str) -> str:
    """`[::1]:8000` -> `::1`, `Localhost.:80` -> `localhost`; "" for what is no host."""
    try:
        return (urlsplit(f"//{netloc}").hostname or "").rstrip(".") if not set(netloc) & set("/?#@\\") else ""
    except ValueError:
        return ""


def foreign_page(scope: Scope, settings: ServeSettings) -> Refusal | None:
    """A page of another site may not change anything here: the browser says where a request comes from (CSRF)."""
    if scope["method"] in SAFE_METHODS:
        return None
    origin, site = header(scope, b"origin"), header(scope, b"sec-fetch-site")
    if origin in settings.cors_origins:
        return None
    same = site in (None, "same-origin", "none") if origin is None else \
        origin.partition("://")[2].lower() == (header(scope, b"host") or "/").lower()
    return None if same else Refusal(403, "a page of another origin asked; origins are allowed with --cors-origins",
                                     "origin_not_allowed", "permission_error")


def without_key(scope: Scope, keys: tuple[bytes, ...]) -> Refusal | None:
    """A key on every path that is not open; all keys are compared, each in constant time."""
    address = (scope.get("client") or ("127.0.0.1",))[0]
    scope["state"]["caller"] = "" if is_loopback(address) else address
    if is_open(scope["path"]) or not keys:
        return None
    scheme, _, given = (header(scope, b"authorization") or "").partition(" ")
    digest = sha256(given.strip().encode("latin-1")).digest()
    equal = [hmac.compare_digest(digest, key) for key in keys]
    if scheme.lower() == "bearer" and any(equal):
        scope["state"]["caller"] = digest.hex()
        return None
    return Refusal(401, "a valid key is needed: Authorization: Bearer KEY", "invalid_api_key", "authentication_error",
                   (NO_RETRY, (b"www-authenticate", b"Bearer")))


def is_open(path: str) -> bool:
    return path in OPEN_PATHS or (path.startswith(OPEN_FOLDER) and ".." not in path)


# --- layers around the application --------------------------------------------------------------------------------

def checked(app: App, checks: list[Check]) -> App:
    """Answers with the first refusal, if there is one."""
    async def asgi(scope: Scope, receive: Receive, send: Send) -> None:
        refusal = next(filter(None, (check(scope) for check in checks)), None) if scope["type"] == "http" else None
        await (refusal.answer(send) if refusal else app(scope, receive, send))
    return asgi


def shared(app: App, settings: ServeSettings) -> App:
    """CORS for the origins that are named, without credentials; off where none is."""
    if not settings.cors_origins:
        return app
    try:
        from starlette.middleware.cors import CORSMiddleware
    except ImportError as error:
        raise BloomeryError("starlette is not installed", why=str(error),
                            hint="pip install 'bloomery[serve]'") from error
    return CORSMiddleware(app, allow_origins=settings.cors_origins, allow_methods=["GET", "POST"],
                          allow_headers=["authorization", "content-type"], expose_headers=["x-request-id"])


def limited(app: App, settings: ServeSettings) -> App:
    """At most `connections` requests are answered at a time, whoever asks, health included; 503 to more of them."""
    busy = 0

    async def asgi(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal busy
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        if busy >= settings.connections:
            await FULL.answer(send)
            return
        busy += 1
        try:
            await app(scope, receive, send)
        finally:
            busy -= 1
    return asgi


def counted(app: App, settings: ServeSettings) -> App:
    """No caller holds more than `per_key` requests at a time; open paths and this machine's own people always may."""
    inside: Counter[str] = Counter()

    async def asgi(scope: Scope, receive: Receive, send: Send) -> None:
        caller = scope["state"]["caller"] if scope["type"] == "http" and not is_open(scope["path"]) else ""
        if not caller:
            await app(scope, receive, send)
            return
        if inside[caller] >= settings.per_key:
            await Refusal(429, f"{settings.per_key} requests of this key are being answered", "too_many_requests",
                          "rate_limit_error", ((b"retry-after", b"1"),)).answer(send)
            return
        inside[caller] += 1
        try:
            await app(scope, receive, send)
        finally:
            inside[caller] -= 1
            if not inside[caller]:
                del inside[caller]
    return asgi


def attended(app: App, settings: ServeSettings) -> App:
    """Reads the body within its limits, then cancels the application when its client leaves or its time is over."""
    async def asgi(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        body = await read_body(scope, receive, settings)
        if isinstance(body, Refusal):
            await body.answer(send)
        elif body is not None:
            await Visit(scope, receive, send, settings).attend(app, body)
    return asgi


async def read_body(scope: Scope, receive: Receive, settings: ServeSettings) -> bytes | Refusal | None:
    """The whole body, counted while it comes: its stated length may lie. None when the client left."""
    limit, stated = settings.body_limit, header(scope, b"content-length") or "0"
    large = Refusal(413, f"the body is larger than {limit} bytes", "body_too_large")
    if not stated.isdecimal() or len(stated) > 18 or int(stated) > limit:
        return large
    body = bytearray()
    try:
        async with asyncio.timeout(settings.body_seconds):
            while (message := await receive())["type"] == "http.request":
                body += message.get("body", b"")
                if len(body) > limit:
                    return large
                if not message.get("more_body", False):
                    return bytes(body) if shallow(body, settings.json_depth) else Refusal(
                        400, f"JSON is nested deeper than {settings.json_depth}", "json_too_deep")
    except TimeoutError:
        return Refusal(408, f"the body took longer than {settings.body_seconds:g} s", "body_too_slow", "timeout_error")
    return None


def shallow(body: bytes | bytearray, limit: int) -> bool:
    """Whether brackets stand in brackets at most `limit` deep, those in strings aside; it need not be valid JSON."""
    if body.count(b"[") + body.count(b"{") <= limit:
        return True
    depth = 0
    for found in BRACKETS.finditer(body):
        mark = body[found.start()]
        depth += (mark in b"[{") - (mark in b"]}")
        if depth > limit:
            return False
    return True


class Visit:
    """One request while the application works on it."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, settings: ServeSettings):
        self.scope, self.settings = scope, settings
        self._receive, self._send = receive, send
        self.gone = asyncio.Event()                 # the client has left, or reads nothing
        self.started = self.streams = self.complete = False

    async def attend(self, app: App, body: bytes) -> None:
        """Run the application until it ends, its client leaves or its time is over."""
        waiting: list[MutableMapping[str, Any]] = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> MutableMapping[str, Any]:
            if waiting:
                return waiting.pop()
            await self.gone.wait()
            return {"type": "http.disconnect"}

        work = asyncio.create_task(app(self.scope, receive, self.send))
        watch = asyncio.create_task(self.watch())
        try:
            await asyncio.wait({work, watch}, timeout=self.settings.deadline, return_when=asyncio.FIRST_COMPLETED)
            late = not (work.done() or watch.done())
            if self.complete or work.done():        # a finished answer reads as a client that left: let it tidy up
                await work
            else:
                await ended(work)
                if late and not self.complete:
                    await self.too_late()
        except Exception:
            if not self.gone.is_set():              # whatever fails for want of a client is no failure
                raise
        finally:
            await ended(work, watch)

    async def watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.gone.set()

    async def send(self, message: MutableMapping[str, Any]) -> None:
        """Pass a message on; a client that takes nothing for `reader_seconds` counts as gone."""
        if message["type"] == "http.response.start":
            self.started = True
            self.streams = any(name.lower() == b"content-type" and value.startswith(b"text/event-stream")
                               for name, value in message.get("headers", ()))
        elif message["type"] == "http.response.body":
            self.complete = not message.get("more_body", False)
        try:
            async with asyncio.timeout(self.settings.reader_seconds):
                await self._send(message)
        except TimeoutError:
            self.complete = False
            self.gone.set()
            raise

    async def too_late(self) -> None:
        """A deadline in words: an error of its own, or the last event of a stream."""
        if not self.started:
            await TOO_LATE.answer(self.send)
        elif self.streams:
            body = b"data: " + TOO_LATE.error() + b"\n\ndata: [DONE]\n\n"
            await self.send({"type": "http.response.body", "body": body})


async def ended(*tasks: asyncio.Task) -> None:
    """Cancel tasks and wait until they have tidied up; what they then raise is nobody's any more."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def labelled(app: App, settings: ServeSettings) -> App:
    """The outermost layer: request id, protective headers, one line a request, and no failure that goes unanswered.

    What is logged of a failure is its kind and place: its message may hold what a person wrote.
    """
    names = {name for name, _ in PROTECTION} | {b"x-request-id"}

    async def asgi(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket":                # there is none here
                await send({"type": "websocket.close", "code": 1008})
            else:
                await app(scope, receive, send)
            return
        identity, since, status = f"req_{uuid4().hex}", time.monotonic(), 0
        scope.setdefault("state", {})["request_id"] = identity

        async def passed(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                kept = [(name, value) for name, value in message.get("headers", ()) if name.lower() not in names]
                message = {**message, "headers": [*kept, *PROTECTION, (b"x-request-id", identity.encode())]}
            await send(message)

        try:
            await app(scope, receive, passed)
        except Exception as error:
            say(f"{identity} failed: {type(error).__name__}\n{''.join(traceback.format_tb(error.__traceback__)[-3:])}")
            if not status:
                with suppress(OSError):
                    await BROKEN.answer(passed)
        finally:
            if settings.access_log:
                took = f"{time.monotonic() - since:.3f} s"
                say(f"{identity} {scope['method']} {printable(scope['path'])} {status or 'left'} {took}")
    return asgi


def printable(text: str, limit: int = 200) -> str:
    """Text for a log line: control characters, line ends and everything beyond ASCII escaped, cut at `limit`."""
    return text[:limit].encode("unicode_escape").decode("ascii") + "..." * (len(text) > limit)
