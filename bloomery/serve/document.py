"""The OpenAPI document: what FastAPI cannot know, since routes read their bodies and write their answers themselves.

It is that of this very server: the ids of its models, its slots, the largest context and vocabulary it has.
"""

from collections.abc import Iterator
from typing import Any

from pydantic.json_schema import models_json_schema

from bloomery.core.config import Settings
from bloomery.serve.models import Models
from bloomery.serve.reading import NOT_WITH_BEAMS
from bloomery.serve.schema import (
    CHUNKS,
    REQUESTS,
    ChatRequest,
    CompletionRequest,
    ErrorBody,
    Health,
    TokenizeRequest,
)
from bloomery.serve.settings import ServeSettings

GUARDS = (401, 403, 408, 413, 414, 429, 431, 500, 503)         # what `limits.py` may answer on any route
MEANS = {400: "the request is wrong; `param` names the field", 401: "no valid key", 403: "host or origin not allowed",
         404: "no such model", 408: "it took too long", 409: "the folder no longer fits", 413: "the body is too large",
         414: "the address is too long", 415: "not application/json", 429: "too many at once; see Retry-After",
         431: "too many headers", 500: "the engine failed on it", 503: "too many at once; see Retry-After"}
PLACE = "#/components/schemas/"
KINDS = {ChatRequest: ("chat",), CompletionRequest: ("chat", "completion")}     # which models can be asked


def described(answered: type | None, statuses: tuple[int, ...]) -> dict[int, dict[str, Any]]:
    """The `responses` of a route."""
    plain = {"text/plain": {"schema": {"type": "string"}}}
    well: dict[str, Any] = {"model": answered} if answered else {"content": plain}
    if answered in CHUNKS:
        well["content"] = {"text/event-stream": {"itemSchema": events(CHUNKS[answered])}}
    errors = {status: {"model": ErrorBody, "description": MEANS[status]} for status in sorted({*statuses, *GUARDS})}
    if answered is Health:
        errors[503] = {"model": Health | ErrorBody, "description": f"a model has failed, or {MEANS[503]}"}
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
    vocabulary = max(served.tokenizer.size for served in engines)
    tops = {"n": settings.slots, "best_of": settings.slots, "num_beams": settings.slots, "max_tokens": context,
            "max_completion_tokens": context, "min_tokens": context, "top_logprobs": settings.top_logprobs}
    for model in REQUESTS:
        fields = schemas[model.__name__]["properties"]
        fields["model"]["enum"] = [served.id for served in engines if served.kind in KINDS.get(model, (served.kind,))]
        for name in tops.keys() & fields.keys():
            fields[name]["anyOf"][0]["maximum"] = min(tops[name], fields[name]["anyOf"][0]["maximum"])
        for name in fields.keys() - {"model"}:
            for part in parts(fields[name]):
                bound(name, part, settings, context, vocabulary)
        if rules := dependencies(model):
            schemas[model.__name__]["allOf"] = rules
    return document


def parts(schema: Any) -> Iterator[dict[str, Any]]:
    """A schema and every schema inside it."""
    if isinstance(schema, dict):
        yield schema
    for part in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        yield from parts(part)


def bound(name: str, part: dict[str, Any], settings: ServeSettings, context: int, vocabulary: int) -> None:
    """Writes this server's limits into a part of a field's schema.

    Those on whole requests (bytes, characters, messages, prompts) are so far beyond what a context holds that the
    context is what a client meets.
    """
    kind = part.get("type")
    if kind == "array" and part["items"].get("type") == "integer":
        part["items"]["exclusiveMaximum"] = vocabulary
        if name != "tokens":
            part["maxItems"] = context
    elif kind == "array" and name in ("stop", "bad_words"):
        part["maxItems"] = settings.stops if name == "stop" else settings.bad_words
    elif kind == "string" and name == "stop":
        part["maxLength"] = settings.stop_characters
    elif kind == "object" and name == "logit_bias":
        part |= {"maxProperties": settings.biases, "additionalProperties": False}


# --- fields that need, or exclude, each other ---------------------------------------------------------------------

NULL = {"type": "null"}


def dependencies(model: type[Settings]) -> list[dict[str, Any]]:
    """What `reading.consistent` demands, as far as JSON Schema can say it.

    It has no words for one number being at most another (n and best_of, n and num_beams, min_tokens and max_tokens),
    nor for the tokens a text becomes: what does not fit a context is a 400 that only the answer explains.
    """
    if model is TokenizeRequest:
        return [{"oneOf": [{"required": [one], "properties": {one: {"not": NULL}, other: NULL}}
                           for one, other in (("prompt", "messages"), ("messages", "prompt"))]}]
    if model not in (ChatRequest, CompletionRequest):
        return []
    streams, several = {"stream": {"const": True}}, {"num_beams": {"type": "integer", "minimum": 2}}
    undrawn = {name: {"enum": list(values)} for name, values in NOT_WITH_BEAMS.items() if name in model.model_fields}
    rules = [when({"stream_options": {"type": "object"}}, streams, needed=True),
             when(streams, {"best_of": NULL, "reward": NULL, "num_beams": {"enum": [None, 1]}}),
             when(several, {"best_of": NULL, "reward": NULL, "logprobs": {"enum": [None, False]}, **undrawn})]
    if model is ChatRequest:
        rules.append(when({"top_logprobs": {"type": "integer", "minimum": 1}}, {"logprobs": {"const": True}},
                          needed=True))
    return rules


def when(given: dict[str, Any], then: dict[str, Any], *, needed: bool = False) -> dict[str, Any]:
    """Where fields have the values `given`, others have the values `then`, or, unless they are `needed`, are absent."""
    return {"if": {"required": list(given), "properties": given},
            "then": {"properties": then, **({"required": list(then)} if needed else {})}}
