"""The application: every route with what it takes and answers, errors in one shape, the chat page."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from bloomery import __version__
from bloomery.core.errors import BloomeryError
from bloomery.serve import schema
from bloomery.serve.document import body_of, completed, described
from bloomery.serve.models import Models
from bloomery.serve.reading import ApiError
from bloomery.serve.routes import Api, server_error
from bloomery.serve.settings import ServeSettings
from bloomery.serve.worker import EngineFault, TooSlow, Worker

try:
    from fastapi import FastAPI
    from fastapi.requests import Request
    from fastapi.responses import FileResponse, Response
    from fastapi.staticfiles import StaticFiles
    from starlette.exceptions import HTTPException
except ImportError as error:
    raise BloomeryError("fastapi is not installed", why=str(error), hint="pip install 'bloomery[serve]'") from error

PAGE = Path(__file__).parent / "chat"


def create_app(models: Models, settings: ServeSettings, *, deterministic: bool = True, why: str = "") -> FastAPI:
    """All routes over one worker, which lives as long as the application does."""
    worker = Worker(models.engines, room=settings.reader_events, patience=settings.reader_seconds)
    api = Api(models, settings, worker, deterministic, why)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        worker.start()
        try:
            yield
        finally:
            await asyncio.to_thread(worker.stop)

    app = FastAPI(title="bloomery", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan,
                  exception_handlers={ApiError: explained, HTTPException: explained, EngineFault: explained,
                                      TooSlow: explained, Exception: explained})
    app.state.worker, app.state.api = worker, api
    for method, path, handler, asked, answered, statuses in routes(api):
        app.add_api_route(path, handler, methods=[method], response_model=None, summary=first_line(handler),
                          responses=described(answered, statuses), openapi_extra=asked and body_of(asked))
    if (PAGE / "index.html").is_file():
        app.add_api_route("/", lambda: FileResponse(PAGE / "index.html"), include_in_schema=False)
        app.mount("/static", StaticFiles(directory=PAGE), name="static")
    plain = app.openapi
    app.openapi = lambda: completed(plain(), models, settings)
    return app


def routes(api: Api) -> list[tuple]:
    """Method, path, handler, request, answer, and what else a route may answer."""
    asked = (400, 404, 415)
    return [
        ("POST", "/v1/chat/completions", api.chat, schema.ChatRequest, schema.ChatCompletion, asked),
        ("POST", "/v1/completions", api.completions, schema.CompletionRequest, schema.TextCompletion, asked),
        ("POST", "/v1/embeddings", api.embeddings, schema.EmbeddingRequest, schema.EmbeddingList, asked),
        ("POST", "/tokenize", api.tokenize, schema.TokenizeRequest, schema.Tokens, asked),
        ("POST", "/detokenize", api.detokenize, schema.DetokenizeRequest, schema.Detokenized, asked),
        ("GET", "/v1/models", api.list_models, None, schema.ModelList, ()),
        ("POST", "/v1/models/{model_id:path}/reload", api.reload, None, schema.Reloaded, (400, 404, 409)),
        ("GET", "/v1/models/{model_id:path}", api.get_model, None, schema.ModelCard, (404,)),
        ("GET", "/health", api.health, None, schema.Health, (503,)),
        ("GET", "/metrics", api.metrics, None, None, ()),
    ]


def first_line(handler: Any) -> str | None:
    return (handler.__doc__ or "").partition("\n")[0] or None


async def explained(request: Request, error: Exception) -> Response:
    """Any failure in OpenAI's shape."""
    if isinstance(error, EngineFault | TooSlow):
        error = server_error(error)
    elif isinstance(error, HTTPException):
        known = ", ".join(sorted({route.path.replace(":path", "") for route in request.app.routes
                                  if route.path.startswith("/v1/")}))
        message = f"there is nothing here; there are {known}, /tokenize, /detokenize, /health and /metrics" \
            if error.status_code == 404 else str(error.detail)
        error = ApiError(error.status_code, message, code={404: "not_found", 405: "method_not_allowed"}.get(
            error.status_code), headers=dict(error.headers or {}))
    elif not isinstance(error, ApiError):               # a defect: its message may hold what a person wrote
        error = ApiError(500, "the server failed on this request; its log says where", kind="server_error",
                         code="internal_error")
    body = json.dumps(error.body()).encode()            # ASCII, whatever characters a person sent
    return Response(body, error.status, error.headers, "application/json")
