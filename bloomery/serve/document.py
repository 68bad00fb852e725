"""The OpenAPI document: what FastAPI cannot know, since routes read their bodies and write their answers themselves.

It is that of this very server: the ids of its models, its slots, the largest context and vocabulary it has.
"""

from typing import Any

from pydantic.json_schema import models_json_schema

from bloomery.core.config import Settings
from bloomery.serve.models import Models
from bloomery.serve.schema import CHUNKS, REQUESTS, ErrorBody, Health
from bloomery.serve.settings import ServeSettings

GUARDS = (401, 403, 408, 413, 414, 429, 431, 500)         # what `limits.py` may answer on any route
MEANS = {400: "the request is wrong; `param` names the field", 401: "no valid key", 403: "host or origin not allowed",
         404: "no such model", 408: "it took too long", 409: "the folder no longer fits", 413: "the body is too large",
         414: "the address is too long", 415: "not application/json", 429: "too many at once; see Retry-After",
         431: "too many headers", 500: "the engine failed on it", 503: "not well"}


PLACE = "#/components/schemas/"


def described(answered: type | None, statuses: tuple[int, ...]) -> dict[int, dict[str, Any]]:
    """The `responses` of a route."""
    plain = {"text/plain": {"schema": {"type": "string"}}}
    well: dict[str, Any] = {"model": answered} if answered else {"content": plain}
    if answered in CHUNKS:
        well["content"] = {"text/event-stream": {"itemSchema": events(CHUNKS[answered])}}
    errors = {status: {"model": Health if status == 503 else ErrorBody, "description": MEANS[status]}
              for status in sorted({*statuses, *GUARDS})}
    return {200: {**well, "description": "done"}, **errors}


def events(chunk: type) -> dict[str, Any]:
    """Server-sent events: chunks as JSON, perhaps an error, and "[DONE]"."""
    content = {"anyOf": [{"$ref": PLACE + chunk.__name__}, {"$ref": PLACE + ErrorBody.__name__}]}
    data = {"anyOf": [{"const": "[DONE]"}, {"type": "string", "contentMediaType": "application/json",
                                            "contentSchema": content}]}
    return {"type": "object", "required": ["data"], "properties": {"data": data}}


def body_of(asked: type[Settings]) -> dict[str, Any]:
    schema = {"$ref": PLACE + asked.__name__}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def completed(document: dict[str, Any], models: Models, settings: ServeSettings) -> dict[str, Any]:
    """The document with requests and chunks, and with the bounds of this server."""
    _, found = models_json_schema([(model, "validation") for model in (*REQUESTS, *CHUNKS.values())],
                                  ref_template=PLACE + "{model}")
    schemas = document["components"]["schemas"]
    schemas |= found["$defs"]
    engines = [served for served in models.table.values() if served.engine]
    context = max(served.context for served in engines)
    tops = {"n": settings.slots, "best_of": settings.slots, "num_beams": settings.slots, "max_tokens": context,
            "max_completion_tokens": context, "min_tokens": context, "top_logprobs": settings.top_logprobs}
    for model in REQUESTS:
        fields = schemas[model.__name__]["properties"]
        fields["model"]["enum"] = [served.id for served in engines
                                   if model.__name__ != "ChatRequest" or served.kind == "chat"]
        for name in tops.keys() & fields.keys():
            fields[name]["anyOf"][0]["maximum"] = min(tops[name], fields[name]["anyOf"][0]["maximum"])
        for ids in arrays_of_ids(fields):
            ids["items"]["exclusiveMaximum"] = max(served.tokenizer.size for served in engines)
    return document


def arrays_of_ids(schema: Any) -> list[dict[str, Any]]:
    """Every array of token ids anywhere in a schema."""
    if isinstance(schema, list):
        return [found for part in schema for found in arrays_of_ids(part)]
    if not isinstance(schema, dict):
        return []
    own = [schema] if schema.get("type") == "array" and schema["items"].get("type") == "integer" else []
    return own + [found for part in schema.values() for found in arrays_of_ids(part)]
