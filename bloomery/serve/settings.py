"""Everything the server may be told, every limit in one place with its reason.

Defaults are safe on a shared machine: loopback only, no other origin, nothing of the text in the log.  A limit holds
for one request unless it says otherwise; what is over it is refused before a token is made, never cut down silently.
Keys are secrets and so no setting: they come from the environment (`BLOOMERY_KEYS`) or from a file, and never stand on
a command line, where every user of the machine can read them.
"""

import ipaddress
import os
from hashlib import sha256
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from bloomery.core.config import Settings
from bloomery.core.errors import ConfigError

MIB = 1 << 20


class ServeSettings(Settings):
    """Serve models over HTTP."""

    # who may come in
    host: str = Field("127.0.0.1", min_length=1, description="address to listen on; other machines reach 0.0.0.0")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    keys_file: Path | None = Field(None, description="file of API keys, one a line; BLOOMERY_KEYS holds them too")
    no_auth: bool = Field(False, description="insist on listening beyond this machine without any key")
    hosts: tuple[str, ...] = Field((), description="further names this server is known by in the Host header")
    cors_origins: tuple[str, ...] = Field((), description="origins of other sites whose pages may call this server")

    # the models
    slots: int = Field(32, ge=1, le=1024, description="answers written at the same time; also the most n can be")
    context: int | None = Field(None, ge=2, description="tokens of prompt and answer; default: the model's")
    chunk: int = Field(64, ge=1, description="tokens of a prompt read at a time: what others wait while one is read")
    dtype: Literal["auto", "fp32", "bf16", "int8"] = Field(
        "auto", description="precision of weights; int8: half the memory of bf16, no faster, and less exact")
    device: str = Field("auto", description="cpu, cuda, cuda:1, mps, or auto: a GPU if there is one, else cpu")
    pooling: Literal["auto", "mean", "last", "first"] = Field(
        "auto", description="where an embedding is read off hidden states; auto: as the model's folder says, else mean")
    lenient: bool = Field(False, description="name ignored fields in a response header instead of refusing them")

    # what a request may hold, looked at before anything is tokenised
    body_limit: int = Field(MIB, ge=1, description="bytes of a request body: a full context is far smaller")
    headers: int = Field(64, ge=1, description="headers of a request: browsers send about 20")
    header_bytes: int = Field(16_384, ge=256, description="bytes of all headers, and of the address")
    json_depth: int = Field(16, ge=1, description="brackets within brackets: a conversation has 5")
    messages: int = Field(1024, ge=1, description="messages of a conversation")
    characters: int = Field(400_000, ge=1, description="characters of all text to tokenise: 0.1 s of one core")
    prompts: int = Field(256, ge=1, description="prompts of a completion, inputs of an embedding")
    stops: int = Field(4, ge=0, description="stop strings, as many as OpenAI takes")
    stop_characters: int = Field(256, ge=1, description="characters of a stop string: all of them are held back")
    biases: int = Field(1024, ge=0, description="tokens with a logit bias: each costs work at every step")
    bad_words: int = Field(256, ge=0, description="forbidden words: each costs work at every step")
    top_logprobs: int = Field(20, ge=0, description="alternatives reported for a token, as many as OpenAI gives")

    # how much at once, and for how long
    queue: int = Field(128, ge=1, description="requests waiting for a slot; more are asked to come back (429)")
    per_key: int = Field(64, ge=1, description="requests of one key at a time; without keys, of one other machine")
    connections: int = Field(2048, ge=1, description="requests at a time in all: a slow reader costs 100 KB")
    deadline: float = Field(600, gt=0, description="seconds a request may take")
    body_seconds: float = Field(30, gt=0, description="seconds a client may take to send its request")
    reader_events: int = Field(64, ge=1, description="pieces kept for a reader who is behind; then its answer rests")
    reader_seconds: float = Field(30, gt=0, description="seconds an answer rests for its reader; then it is given up")
    ping_seconds: float = Field(10, gt=0, description="silence after which a stream sends a comment")
    shutdown_seconds: float = Field(10, ge=0, description="seconds that running answers are given when the server ends")

    # what it says
    access_log: bool = Field(True, description="say one line for every request, without its text")

    @field_validator("cors_origins")
    @classmethod
    def _named(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        if wrong := [origin for origin in origins if not origin.startswith(("http://", "https://"))
                     or "*" in origin or origin.count("/") != 2]:
            raise ValueError(f"{wrong[0]!r} is no origin: name each one, as in https://lab.example.org")
        return origins


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_keys(settings: ServeSettings) -> tuple[bytes, ...]:
    """The SHA-256 of every key of `BLOOMERY_KEYS` and the keys' file; commas, spaces and line ends stand between keys.

    Refuses to go on where other machines could use the server without one.
    """
    text = os.environ.get("BLOOMERY_KEYS", "")
    if settings.keys_file:
        try:
            text += "\n" + settings.keys_file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError("the keys cannot be read", where=str(settings.keys_file), why=str(error)) from error
    keys = list(dict.fromkeys(text.replace(",", " ").split()))
    if settings.keys_file and not keys:
        raise ConfigError("there are no keys", where=str(settings.keys_file), why="the file is empty")
    if weak := [key for key in keys if len(key) < 16]:
        raise ConfigError("a key is too short to be one", why=f"{len(weak[0])} characters can be guessed",
                          hint="make one with: openssl rand -hex 24")
    if not (keys or settings.no_auth or is_loopback(settings.host)):
        raise ConfigError(f"{settings.host} would serve everyone on the network", why="there is no key",
                          hint="set BLOOMERY_KEYS, or listen on 127.0.0.1, or insist with --no-auth")
    return tuple(sha256(key.encode()).digest() for key in keys)
