"""A body of JSON to a request, or an `ApiError` that names the field and says what to send instead.

Nothing is dropped silently: an unknown field is an error with the nearest name, one of OpenAI's that is not supported
is an error of its own, unless its value asks for nothing (null, false, [], "none").  A lenient server leaves such
fields out and the answer's `x-ignored-fields` header lists them.
"""

import json
from types import NoneType
from typing import Any, TypeVar, get_args

from pydantic import ValidationError
from pydantic_core import from_json

from bloomery.core.config import Keys, Settings, dotted, in_words, place, whole
from bloomery.core.errors import InputError
from bloomery.serve.schema import ChatRequest, CompletionRequest, EmbeddingRequest, TokenizeRequest
from bloomery.serve.settings import ServeSettings

R = TypeVar("R", bound=Settings)
UNSUPPORTED = {
    "audio", "dimensions", "function_call", "functions", "guided_choice", "guided_grammar", "guided_json",
    "guided_regex", "image_url", "input_audio", "logits_processors", "modalities", "name", "parallel_tool_calls",
    "prediction", "prompt_logprobs", "reasoning_effort", "refusal", "response_format", "safety_identifier",
    "prompt_cache_key", "service_tier", "store", "suffix", "tool_call_id", "tool_calls", "tool_choice", "tools",
    "verbosity", "web_search_options", "annotations"}
NOT_WITH_BEAMS = {              # what a beam search does not do, and the values that do not ask for it
    **{name: (None, CompletionRequest.model_fields[name].default) for name in (
        "top_p", "top_k", "min_p", "typical_p", "presence_penalty", "frequency_penalty", "repetition_penalty", "stop",
        "no_repeat_ngram_size", "bad_words", "logit_bias", "min_tokens", "echo")},
    "temperature": (None, 0, 1)}
NOTHING = (None, False, "", "none", "auto", "default", [], {}, {"type": "text"}, ["text"])


class ApiError(Exception):
    """An answer that is not 200, in OpenAI's shape."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None,
                 kind: str = "invalid_request_error", headers: dict[str, str] | None = None):
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.kind = status, message, param, code, kind
        again = {"retry-after": "1"} if status in (429, 503) else {"x-should-retry": "false"}
        self.headers = again | (headers or {})

    def body(self) -> dict[str, Any]:
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


def invalid(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    return ApiError(400, message, param=param, code=code or "invalid_value")


def refused(error: InputError, param: str | None = None, code: str | None = None) -> ApiError:
    """What the engine or the renderer says of an input, as an answer."""
    return invalid("; ".join(part for part in (error.what, error.why, error.hint) if part), param, code)


def read(model: type[R], body: bytes, settings: ServeSettings) -> tuple[R, list[str]]:
    """A request, checked and within limits, and the fields that a lenient server left out."""
    try:
        values = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise invalid(f"the body is not valid JSON: {error}", code="invalid_json") from None
    if not isinstance(values, dict):
        raise invalid("the body must be a JSON object", code="invalid_json")
    optional = {name for name, field in model.model_fields.items() if NoneType in get_args(field.annotation)}
    values = {name: value for name, value in values.items() if value is not None or name not in optional}
    ignored: list[str] = []
    while True:
        try:
            request = model.model_validate_json(json.dumps(whole(values)), strict=True)
            break
        except ValidationError as error:
            ignored += leave_out(model, values, error, settings.lenient)
    check_limits(request, settings)
    return request, ignored


def leave_out(model: type[Settings], values: dict, error: ValidationError, lenient: bool) -> list[str]:
    """Delete what may be ignored from `values` and name it; raise for anything else that is wrong."""
    places: dict[Keys, list[dict]] = {}
    for found in error.errors(include_url=False):
        places.setdefault(place(values, found["loc"], found["type"]), []).append(found)
    ignored, deleted = [], False
    for keys, errors in places.items():
        extra = errors[0]["type"] == "extra_forbidden"
        if extra and keys[-1] in UNSUPPORTED and errors[0]["input"] in NOTHING:
            deleted = delete(values, keys)
        elif extra and lenient:
            deleted = delete(values, keys)
            ignored.append(dotted(keys))
    if not deleted:
        raise first_problem(model, places)
    return ignored


def delete(values: Any, keys: Keys) -> bool:
    for key in keys[:-1]:
        values = values[key]
    del values[keys[-1]]
    return True


def first_problem(model: type[Settings], places: dict[Keys, list[dict]]) -> ApiError:
    """The first thing wrong, in words, with the field it is about.

    A value that fits none of several forms has an error for each form; the one deepest inside it says most.
    """
    first = next(iter(places))
    keys = max((keys for keys in places if keys[:len(first)] == first), key=len)
    errors, name = places[keys], dotted(keys)
    words = ", or ".join(dict.fromkeys(in_words(found, model, keys, "") for found in errors))
    kind = errors[0]["type"]
    if kind == "extra_forbidden" and keys[-1] in UNSUPPORTED:
        return invalid(f"{name}: not supported by this server", name, "unsupported_parameter")
    code = {"extra_forbidden": "unknown_parameter", "missing": "missing_required_parameter"}.get(kind)
    return invalid(f"{name}: {words}" if name else words, name or None, code)


# --- limits that depend on the server, looked at before anything is tokenised --------------------------------------

def check_limits(request: Settings, settings: ServeSettings) -> None:
    for name, limit in (("messages", settings.messages), ("bad_words", settings.bad_words),
                        ("logit_bias", settings.biases), ("tokens", settings.characters)):
        count = len(getattr(request, name, None) or ())
        if count > limit:
            raise invalid(f"{name}: at most {limit} entries, got {count}", name, "too_many_entries")
    check_prompts(request, settings)
    stops = stop_strings(request)
    if len(stops) > settings.stops:
        raise invalid(f"stop: at most {settings.stops} texts, got {len(stops)}", "stop", "too_many_entries")
    if long := next((stop for stop in stops if len(stop) > settings.stop_characters), None):
        raise invalid(f"stop: at most {settings.stop_characters} characters each, got {len(long)}", "stop")
    if (getattr(request, "top_logprobs", None) or 0) > settings.top_logprobs:
        raise invalid(f"top_logprobs: at most {settings.top_logprobs}", "top_logprobs")
    consistent(request, settings)


def stop_strings(request: Settings) -> list[str]:
    stop = getattr(request, "stop", None)
    return [stop] if isinstance(stop, str) else stop or []


def check_prompts(request: Settings, settings: ServeSettings) -> None:
    """How many prompts there are, and how much text in all."""
    name = "input" if isinstance(request, EmbeddingRequest) else "prompt"
    given = getattr(request, name, None)
    many = isinstance(given, list) and not isinstance(given[0], int)
    if many and len(given) > settings.prompts:
        raise invalid(f"{name}: at most {settings.prompts} at a time, got {len(given)}", name, "too_many_entries")
    texts = [("bad_words", "".join(getattr(request, "bad_words", None) or ()))]
    texts += [(name, part) for part in ([given] if isinstance(given, str) else given or ()) if isinstance(part, str)]
    texts += [("messages", text_of(message.content)) for message in getattr(request, "messages", None) or ()]
    total = sum(len(text) for _, text in texts)
    if total > settings.characters:
        raise invalid(f"{texts[-1][0]}: {total} characters in all, this server reads {settings.characters}",
                      texts[-1][0], "context_length_exceeded")


def text_of(content: str | list) -> str:
    return content if isinstance(content, str) else "".join(part.text for part in content)


def consistent(request: Settings, settings: ServeSettings) -> None:
    """Fields that need, or exclude, each other."""
    if isinstance(request, TokenizeRequest) and (request.prompt is None) == (request.messages is None):
        raise invalid("give either prompt or messages", "prompt")
    if not isinstance(request, ChatRequest | CompletionRequest):
        return
    candidates, best = max(request.n, request.best_of or 0), request.best_of or request.reward
    beams = request.num_beams > 1
    length = request.max_tokens if isinstance(request, CompletionRequest) else \
        request.max_completion_tokens or request.max_tokens
    for wrong, param, why in (
            (request.stream_options and not request.stream, "stream_options", "only with stream"),
            (candidates > settings.slots, "best_of" if request.best_of else "n",
             f"this server writes {settings.slots} answers at a time"),
            (request.best_of and request.best_of < request.n, "best_of", "must be at least n"),
            (best and request.stream, "best_of" if request.best_of else "reward",
             "not with stream: the best is known only at the end"),
            (beams and request.stream, "num_beams", "not with stream: the best beam is known only at the end"),
            (beams and best, "num_beams", "not with best_of: a beam search ranks by itself"),
            (beams and request.num_beams > settings.slots, "num_beams", f"at most {settings.slots}"),
            (beams and request.n > request.num_beams, "n", "at most num_beams"),
            (beams and not (request.logprobs is None or request.logprobs is False), "logprobs", "not with num_beams"),
            *((beams and getattr(request, name) not in given, name, "not with num_beams: nothing is drawn")
              for name, given in NOT_WITH_BEAMS.items() if name in type(request).model_fields),
            (length is not None and request.min_tokens > length, "min_tokens", "at most max_tokens")):
        if wrong:
            raise invalid(f"{param}: {why}", param)
    if isinstance(request, ChatRequest):
        if request.top_logprobs and not request.logprobs:
            raise invalid("top_logprobs: only with logprobs", "top_logprobs")
        for position, message in enumerate(request.messages):
            if not text_of(message.content).strip():
                raise invalid("an empty message cannot be rendered", f"messages[{position}].content")
