"""The part of the interface that the chat page uses, with answers that are known beforehand."""

import asyncio
import json
import math
import re
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from bloomery.serve.limits import PROTECTION

PAGE = Path(str(resources.files("bloomery") / "serve" / "chat"))
KINDS = {"small-dpo": "chat", "small-sft": "chat", "small-base": "completion", "judge": "reward"}
CHANCES = (0.97, 0.6, 0.2, 0.05)                # of the tokens, in turn
SAID = """## A *list* of things

Some **bold** words, `code`, and a [link](https://example.org/a) that is [not](javascript:alert(1)) followed:

1. first
2. second
   - nested <img src=x onerror="window.stolen=1">

| name | value |
|------|------:|
| a    | 1     |

```python
print("<b>hello</b>")
```
<script>window.stolen = 1</script> ![an image](https://example.org/a.png)"""


class Known:
    """Short questions come back with the model's name, long ones get `SAID`, texts go on `and so on.`"""

    def __init__(self) -> None:
        self.reset()
        self.app = Starlette(routes=[
            Route("/", lambda request: FileResponse(PAGE / "index.html")),
            Mount("/static", StaticFiles(directory=PAGE)),
            Route("/health", lambda request: JSONResponse({"status": "ok"})), Route("/v1/models", self.models),
            Route("/v1/models/{id}/reload", self.reload, methods=["POST"]),
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
            Route("/v1/completions", self.text, methods=["POST"])])

    def reset(self) -> None:
        """`pace`: seconds between tokens; `asked`: what came; `cancelled`: streams whose reader went away."""
        self.asked: list[dict] = []
        self.pace, self.cancelled, self.key = 0.0, 0, ""

    async def __call__(self, scope, receive, send) -> None:
        async def guarded(message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] += PROTECTION
            await send(message)

        await self.app(scope, receive, guarded)

    async def models(self, request: Request) -> Response:
        if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
            return JSONResponse({"error": {"message": "a key is needed", "code": "invalid_api_key"}}, status_code=401)
        return JSONResponse({"object": "list", "data": [
            {"id": name, "object": "model", "created": 0, "owned_by": "bloomery", "kind": kind, "context": 512,
             "parameters": 3_270_000} for name, kind in KINDS.items()]})

    async def reload(self, request: Request) -> Response:
        return JSONResponse({"id": request.path_params["id"], "checkpoint": "step-200", "changed": True})

    async def chat(self, request: Request) -> Response:
        asked = await request.json()
        self.asked.append(asked)
        question = asked["messages"][-1]["content"]
        if question == "too long":
            return JSONResponse({"error": {"message": "the prompt has 600 tokens", "type": "invalid_request_error",
                                           "param": "messages", "code": "context_length_exceeded"}}, status_code=400)
        if asked.get("best_of", 0) > 8:
            return JSONResponse({"error": {"message": "this server writes 8 answers at a time"}}, status_code=400)
        if asked.get("best_of"):
            choices = [{"index": i, "message": {"role": "assistant", "content": f"Candidate {i}"}, "score": 1.5 - i,
                        "logprobs": None, "finish_reason": "stop"} for i in range(asked["n"])]
            return JSONResponse({"choices": choices, "usage": usage(9, 12), "best_of": {"n": 4, "kl_bound": 0.64}})
        said = f"{asked['model']}: {question}" if len(question) < 20 else SAID
        return self.streamed(said, asked, lambda piece: {"delta": {"content": piece} if piece else {}})

    async def text(self, request: Request) -> Response:
        asked = await request.json()
        self.asked.append(asked)
        return self.streamed(" and so on.", asked, lambda piece: {"text": piece})

    def streamed(self, text: str, asked: dict, shape: Callable[[str], dict]) -> Response:
        return StreamingResponse(self.chunks(text, asked, shape), media_type="text/event-stream")

    async def chunks(self, text: str, asked: dict, shape: Callable[[str], dict]) -> AsyncIterator[str]:
        pieces = re.findall(r"\s?\S+|\s", text)
        if "messages" in asked:
            yield choice({"delta": {"role": "assistant", "content": ""}})
        try:
            for i, piece in enumerate(pieces):
                yield choice({**shape(piece), "logprobs": odds(piece, CHANCES[i % 4], asked)})
                await asyncio.sleep(self.pace)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        yield choice(shape(""), "stop")
        yield f"data: {json.dumps({'choices': [], 'usage': usage(20, len(pieces))})}\n\ndata: [DONE]\n\n"


def choice(said: dict, finish: str | None = None) -> str:
    return f"data: {json.dumps({'choices': [{'index': 0, **said, 'finish_reason': finish}], 'usage': None})}\n\n"


def odds(piece: str, p: float, asked: dict) -> dict | None:
    """The probability of a token and of two others, in the shape of the interface that was asked."""
    others = {piece: math.log(p), " other": math.log((1 - p) / 2), "?": math.log((1 - p) / 4)}
    if not asked.get("logprobs"):
        return None
    if "messages" not in asked:
        return {"tokens": [piece], "token_logprobs": [math.log(p)], "top_logprobs": [others]}
    spelled = [{"token": token, "logprob": logp, "bytes": list(token.encode())} for token, logp in others.items()]
    return {"content": [spelled[0] | {"top_logprobs": spelled}]}


def usage(prompt: int, completion: int) -> dict:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


@contextmanager
def listening(app: Known, port: int) -> Iterator[int]:
    """An application on a port of this machine, gone when the block ends, its streams with it."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=0))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        until(lambda: server.started)
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = server.force_exit = True
            thread.join(10)


def until(holds: Callable[[], bool], seconds: float = 10) -> None:
    """Waits for what another thread brings about."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.02)
