"""An assistant one asks: a model folder, or any server that speaks OpenAI's API.

Both answer many dialogues at once (`replies`) and say how likely each of a few letters is as their next word
(`letters`), or None where nothing can be read out of what they say: no letter is ever made up.
"""

import json
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Annotated, Protocol, TypeVar
from urllib.parse import urlsplit

import torch
from pydantic import Field, model_validator

from bloomery.core.config import Free, Input, Settings
from bloomery.core.errors import InputError
from bloomery.core.metrics import progress
from bloomery.core.records import Message
from bloomery.data.formats import message_rows
from bloomery.data.likelihood import score_answers
from bloomery.generate.engine import Engine
from bloomery.generate.request import Request
from bloomery.generate.sampling import Sampling
from bloomery.model.store import load_model
from bloomery.text.chat import load_renderer

SLOTS = 32                      # dialogues a model folder answers side by side
ALTERNATIVES = 20               # likeliest next words a server is asked for: as many as OpenAI's gives
AGAIN = (408, 409, 429)         # what a server says that may be asked again; so may 500 and above
NEVER = -100.0                  # the log-probability of a letter that a server without probabilities did not say
LONGEST_WAIT = 60.0             # seconds between two attempts, whatever a server says

Dialogue = tuple[Message, ...]
T = TypeVar("T")


class AssistantConfig(Settings):
    """Who is asked: a model folder, or a server."""

    model: Input | None = Field(None, description="folder of a chat model")
    url: str | None = Field(None, description="in its place a server that speaks OpenAI's API: http://HOST:PORT/v1")
    served: str = Field("", description="what the server calls its model; default: the first it lists")
    key: Annotated[str, Free()] = Field("OPENAI_API_KEY", description="the variable of the environment that holds the "
                                                                      "server's key")
    timeout: Annotated[float, Free()] = Field(120.0, gt=0, description="seconds a server may take for an answer")
    retries: Annotated[int, Free()] = Field(4, ge=0, description="how often a request that failed is sent again")
    parallel: Annotated[int, Free()] = Field(8, gt=0, description="requests under way at once, to a server")

    @model_validator(mode="after")
    def is_one(self) -> "AssistantConfig":
        if bool(self.model) == bool(self.url):
            raise ValueError("one who answers is needed: model=FOLDER or url=http://HOST:PORT/v1")
        if self.url and urlsplit(self.url).scheme not in ("http", "https"):
            raise ValueError(f"url must begin with http:// or https://, got {self.url}")
        return self


@dataclass(frozen=True)
class Reply:
    """What was said, and whether it came to its end."""

    text: str
    finished: bool


class Assistant(Protocol):
    def replies(self, dialogues: Sequence[Dialogue], *, max_tokens: int, temperature: float,
                seeds: Sequence[int]) -> list[Reply]:
        """The next message of each dialogue."""
        ...

    def letters(self, dialogues: Sequence[Dialogue], options: Sequence[str]) -> list[list[float] | None]:
        """Log-probabilities of each option as the next word, None where the assistant says none of them."""
        ...


def opened(config: AssistantConfig, *, compute: torch.dtype, device: torch.device | str = "cpu") -> Assistant:
    return Server(config) if config.url else Local(Path(config.model), compute=compute, device=device)


# --- a model folder ---------------------------------------------------------------------------------------------------

class Local:
    """A model folder that chats."""

    def __init__(self, folder: Path, *, compute: torch.dtype = torch.float32, device: torch.device | str = "cpu"):
        self.model, self.renderer = load_model(folder, compute=compute).eval().to(device), load_renderer(folder)

    def replies(self, dialogues: Sequence[Dialogue], *, max_tokens: int, temperature: float,
                seeds: Sequence[int]) -> list[Reply]:
        context = self.model.config.context
        prompts = [self.rendered(dialogue, room=1) for dialogue in dialogues]
        engine = Engine(self.model, self.renderer.tokenizer, slots=min(SLOTS, len(prompts)),
                        context=min(context, max(map(len, prompts)) + max_tokens))
        found = engine.generate(Request(tuple(ids), min(max_tokens, context - len(ids)), seed=seed,
                                        how=Sampling(temperature), ends=self.renderer.ends)
                                for ids, seed in zip(prompts, seeds, strict=True))
        return [Reply(one.text.strip(), one.finish == "stop") for (one,) in found]

    def letters(self, dialogues: Sequence[Dialogue], options: Sequence[str]) -> list[list[float] | None]:
        answers = [self.renderer.answer(option)[:-1] for option in options]
        prompts = [self.rendered(dialogue, room=max(map(len, answers))) for dialogue in dialogues]
        return score_answers(self.model, prompts, [answers] * len(prompts), sums=torch.float64)

    def rendered(self, dialogue: Dialogue, *, room: int) -> list[int]:
        ids = self.renderer.prompt(dialogue)
        if len(ids) + room > self.model.config.context:
            raise InputError("a question does not fit into the model", where=dialogue[-1].content[:60],
                             why=f"it has {len(ids)} tokens, the model reads {self.model.config.context - room}",
                             hint="shorter answers (max_tokens=), fewer rounds, or a model with a longer context")
        return ids


# --- a server ---------------------------------------------------------------------------------------------------------

class Server:
    """A server that speaks OpenAI's chat API. Its key is read from the environment and never told."""

    def __init__(self, config: AssistantConfig):
        self.config, self.place = config, urlsplit(config.url.rstrip("/"))
        self.name = config.served or self.first_model()

    def replies(self, dialogues: Sequence[Dialogue], *, max_tokens: int, temperature: float,
                seeds: Sequence[int]) -> list[Reply]:
        def ask(asked: tuple[Dialogue, int]) -> Reply:
            choice = self.chat(asked[0], max_tokens=max_tokens, temperature=temperature, seed=asked[1] % 2**31)
            return Reply(text_of(choice).strip(), choice.get("finish_reason") == "stop")

        return self.side_by_side(ask, list(zip(dialogues, seeds, strict=True)))

    def letters(self, dialogues: Sequence[Dialogue], options: Sequence[str]) -> list[list[float] | None]:
        """Of a server that tells no probabilities its one word is taken for certain."""
        def ask(dialogue: Dialogue) -> list[float] | None:
            choice = self.chat(dialogue, max_tokens=1, temperature=0.0, seed=0, logprobs=True,
                               top_logprobs=ALTERNATIVES)
            return read_letters(choice, options)

        return self.side_by_side(ask, dialogues)

    def chat(self, dialogue: Dialogue, **options: object) -> dict:
        """The first choice of a chat completion."""
        found = self.request("POST", "/chat/completions",
                             {"model": self.name, "messages": message_rows(dialogue)} | options)
        choices = found.get("choices")
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
            raise InputError("the server's answer cannot be read", where=self.config.url,
                             why="it has no choices", hint="is it an OpenAI-compatible server? the url ends with /v1")
        return choices[0]

    def first_model(self) -> str:
        listed = self.request("GET", "/models").get("data")
        if not isinstance(listed, list) or not listed or "id" not in listed[0]:
            raise InputError("the server lists no model", where=self.config.url, hint="name it with served=NAME")
        return listed[0]["id"]

    def side_by_side(self, ask: Callable[[T], object], asked: Sequence[T]) -> list:
        with ThreadPoolExecutor(self.config.parallel) as pool:
            return list(progress(pool.map(ask, asked), name="asking, requests", total=len(asked)))

    def request(self, method: str, path: str, body: dict | None = None) -> dict:
        """A JSON answer. What may pass is tried again, ever later; anything else is an `InputError` at once."""
        wrong, wait = "", 0.0
        for attempt in range(self.config.retries + 1):
            if attempt:
                time.sleep(wait)
            status, headers, text = self.send(method, path, body)
            if status == 200:
                try:
                    found = json.loads(text)
                except ValueError:
                    found = None
                if isinstance(found, dict):
                    return found
            wrong = f"{status}: {text[:200]}" if status else text
            if status and status < 500 and status not in (200, *AGAIN):
                break
            wait = min(LONGEST_WAIT, seconds(headers.get("Retry-After")) or 0.5 * 2**attempt)
        raise InputError("the server did not answer", where=self.config.url + path, why=wrong,
                         hint=f"is it running, is the key in {self.config.key}? retries= and timeout= make it patient")

    def send(self, method: str, path: str, body: dict | None) -> tuple[int, dict, str]:
        """Status, headers and text; status 0 where there was no connection, the text then says why."""
        kind = HTTPSConnection if self.place.scheme == "https" else HTTPConnection
        connection = kind(self.place.hostname, self.place.port, timeout=self.config.timeout)
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(self.config.key):
            headers["Authorization"] = f"Bearer {key}"
        try:
            connection.request(method, self.place.path + path, body and json.dumps(body), headers)
            answer = connection.getresponse()
            return answer.status, dict(answer.headers), answer.read().decode("utf-8", "replace")
        except (OSError, HTTPException) as error:
            return 0, {}, f"{type(error).__name__}: {error}"
        finally:
            connection.close()


def seconds(text: str | None) -> float:
    """What a Retry-After header asks for; 0 for none, or for a date."""
    try:
        return max(0.0, float(text or 0))
    except ValueError:
        return 0.0


def text_of(choice: dict) -> str:
    return (choice.get("message") or {}).get("content") or ""


def read_letters(choice: dict, options: Sequence[str]) -> list[float] | None:
    """Log-probabilities of the options among a server's likeliest words; None if it says none of them.

    An option that is not among those is at most as likely as the least likely of them, and counts as that.
    """
    told = ((choice.get("logprobs") or {}).get("content") or [{}])[0].get("top_logprobs") or []
    found = {}
    for one in told:                                            # "A" and " A" are one letter: the likelier counts
        found.setdefault(one["token"].strip(), float(one["logprob"]))
    if told:
        least = min(float(one["logprob"]) for one in told)
        return [found.get(option, least) for option in options] if any(one in found for one in options) else None
    said = text_of(choice).strip().strip("().:*")
    return [0.0 if option == said else NEVER for option in options] if said in list(options) else None
