"""How other tools write turns: every dialect of a dialogue becomes the same `Message`s.

    OpenAI, TRL      {"role", "content"}, content a string or a list of parts; tool_calls, reasoning_content, weight
    ShareGPT         {"from": human | gpt | system | function_call | observation, "value"}
    Alpaca, Dolly    an instruction and its input or context, an answer, earlier rounds in `history`
    HH-RLHF          one string, "\\n\\nHuman: ...\\n\\nAssistant: ..." (Bai et al. 2022)

What cannot be read is a string that says why.  Thoughts, calls, tools and weights are kept; a part that is no text
(an image) is a reason, never left out.
"""

import json
import re
from collections.abc import Callable
from contextlib import suppress
from math import isfinite
from typing import Any

from bloomery.core.records import ROLES, Message, Role

Turns = tuple[Message, ...]

ROLE = {role: role for role in ROLES} | {
    "human": "user", "gpt": "assistant", "model": "assistant", "function_call": "assistant", "observation": "tool",
    "function": "tool", "ipython": "tool", "developer": "system"}
PARTS = {"text": "content", "input_text": "content", "output_text": "content", "reasoning": "thinking",
         "thinking": "thinking", "tool_call": "calls"}      # kinds of a content's parts: which of ours they are
SPEAKER = re.compile(r"\n\n(Human|Assistant):")


def messages(value: Any, role: Role | None = None) -> Turns | str:
    """Turns from a list of them, or one turn of `role` from a string or an object; a string says what is wrong."""
    if isinstance(value, str) and role:
        return transcript(value) if SPEAKER.match(value) else (Message(role, value),)
    value = [value] if isinstance(value, dict) and role else from_json(value)           # LLaMA-Factory's answer; CSV
    if not isinstance(value, list) or not value:
        return f"not a list of messages: {type(value).__name__}" if value != [] else "an empty list of messages"
    turns = [message(turn) for turn in value]
    return next((turn for turn in turns if isinstance(turn, str)), None) or tuple(turns)


def message(turn: Any) -> Message | str:
    """One turn in OpenAI's or ShareGPT's spelling."""
    if not isinstance(turn, dict):
        return "a message without role and content"
    role, content, weight = first(turn, "role", "from"), first(turn, "content", "value"), first(turn, "weight", "train")
    calls = from_json(turn.get("tool_calls")) or []
    if role == "function_call":
        calls, content = from_json(content), ""
    if role is None or content is None and not calls:
        return "a message without role and content"
    if str(role) not in ROLE:
        return f"unknown role: {role!r}, not one of {', '.join(ROLE)}"
    said = {"content": [], "thinking": [first(turn, "reasoning_content", "thinking") or ""],
            "calls": [*calls] if isinstance(calls, list) else [calls]}
    content = "" if content is None else content
    for part in content if isinstance(content, list) else [{"type": "text", "text": content}]:
        kind = str(part.get("type") if isinstance(part, dict) else part)
        if kind not in PARTS:
            return f"a part of a message that is not read: {kind[:40]}"
        said[PARTS[kind]].append(first(part, "text", "value", kind))
    if not all(isinstance(text, str) for text in said["content"] + said["thinking"]):
        return "a message without role and content"
    calls = [as_call(call) for call in map(from_json, said["calls"])]
    if None in calls:
        return "a tool call without a name"
    weight = weight_of(weight)
    if isinstance(weight, str):
        return weight
    return Message(ROLE[role], "".join(said["content"]), weight, "\n".join(filter(None, said["thinking"])),
                   tuple(calls))


def first(row: dict, *names: str) -> Any:
    """The first of these columns that is there: Arrow fills what a row lacks with None."""
    return next((row[name] for name in names if row.get(name) is not None), None)


def from_json(value: Any) -> Any:
    """What a column holds that may be JSON in a string; the string itself if it is none."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return value


def as_call(call: Any) -> dict | None:
    """A tool call as the OpenAI API writes it, from that or a bare {"name", "arguments"}; None if it is neither."""
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        return None
    return call if "function" in call else {"type": "function", "function": call}


def weight_of(value: Any) -> float | str | None:
    """A loss weight from a number or, in CSV, a text; None stays None, a string says what is wrong."""
    with suppress(TypeError, ValueError, OverflowError):
        if value is None or isfinite(float(value)) and float(value) >= 0:
            return None if value is None else float(value)
    return f"a weight that is not a number from 0 up: {value!r}"


def transcript(text: str) -> Turns:
    """The turns of an HH-RLHF string; an empty last turn of the assistant is where it is to speak."""
    _, *pieces = SPEAKER.split(text)
    turns = [Message("user" if name == "Human" else "assistant", said.strip())
             for name, said in zip(pieces[::2], pieces[1::2], strict=True)]
    return tuple(turns[:-1] if len(turns) > 1 and turns[-1] == Message("assistant", "") else turns)


# --- dialogues and prompts out of a row's columns -----------------------------------------------------------------

def turns_of(column: str, role: Role | None = None) -> Callable[[dict], Turns | str]:
    """Reads the turns of one column, with the row's `system` before them."""
    return lambda row: joined(row, messages(row[column], role))


def exchange(*columns: str) -> Callable[[dict], Turns | str]:
    """Reads a prompt and, where a second column is named, its completion."""
    return lambda row: joined(row, *(messages(row[name], role)
                                     for name, role in zip(columns, ("user", "assistant"), strict=False)))


def instruction(*answer: str) -> Callable[[dict], Turns | str]:
    """Reads Alpaca's columns: `instruction` with its input or context below it, `history`, and the answer's column."""
    def read(row: dict) -> Turns | str:
        rounds = from_json(row.get("history")) or []
        if not isinstance(rounds, list) or any(not isinstance(pair, list) or len(pair) != 2 for pair in rounds):
            return "history is not a list of [instruction, answer]"
        asked = [row["instruction"], *filter(None, [row.get("input"), row.get("context")])]
        if not all(isinstance(text, str) for text in asked):
            return "instruction or input is not a string"
        texts = [*(text for pair in rounds for text in pair), "\n\n".join(filter(None, asked)), *map(row.get, answer)]
        return joined(row, *(messages(text, "assistant" if index % 2 else "user") for index, text in enumerate(texts)))
    return read


def joined(row: dict, *parts: Turns | str) -> Turns | str:
    """The parts one after another, the row's `system` first if they have none; or what is wrong with one of them."""
    turns = next((part for part in parts if isinstance(part, str)), None) or sum(parts, ())
    system = row.get("system")
    if not system or isinstance(turns, str) or turns[0].role == "system":
        return turns
    return (Message("system", system), *turns) if isinstance(system, str) else "system is not a string"
