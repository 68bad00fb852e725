"""From rows to records and back: which columns make a document, a conversation or a preference.

    documents       text [source]
    conversations   messages, or prompt and completion              [task, id]
    preferences     prompt, chosen, rejected                        [kind, id]

A turn is `{"role", "content"}`; a prompt, a completion or an answer is a string or a list of turns.  Chosen and
rejected may be whole dialogues: the last turn is the answer, those before it are the prompt.  A row that cannot be used
is quarantined with its reason; only when none can be used is that an error.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from bloomery.core.errors import InputError
from bloomery.core.files import Quarantine, rows
from bloomery.core.records import ROLES, Conversation, Document, Message, Preference, Role, text_id
from bloomery.data import stdlib

T = TypeVar("T")


def documents(source: str, quarantine: Quarantine) -> Iterator[Document]:
    """The documents of a file, a folder, a curation output, or `python:stdlib`; the default source is the place."""
    if source == stdlib.SOURCE:
        yield from stdlib.documents(quarantine)
        return
    if ":" in source and not Path(source).exists():
        raise InputError("unknown source", where=source,
                         hint=f"the built-in source is {stdlib.SOURCE}; else give a path")
    base = str(Path(source) if Path(source).is_dir() else Path(source).parent) + "/"
    yield from records(inside(source, "documents.parquet"), quarantine, expected="a column `text` (and `source`)",
                       parse=lambda row, where: document(row, where.removeprefix(base)))


def conversations(path: str, quarantine: Quarantine) -> list[Conversation]:
    """All conversations of a file, a folder, or an instruction output."""
    return list(records(inside(path, "instructions.jsonl"), quarantine, parse=conversation,
                        expected="a column `messages`, or `prompt` and `completion`"))


def preferences(path: str, quarantine: Quarantine) -> list[Preference]:
    """All preferences of a file, a folder, or a preference output."""
    return list(records(inside(path, "preferences.jsonl"), quarantine, parse=preference,
                        expected="columns `prompt`, `chosen` and `rejected`"))


def inside(path: str, name: str) -> Path:
    """The file of that name if `path` is a stage's output that has one: its other files are not for training."""
    return Path(path) / name if (Path(path) / name).is_file() else Path(path)


def records(path: Path, quarantine: Quarantine, *, parse: Callable[[dict, str], T | str], expected: str) -> Iterator[T]:
    """What `parse` makes of each row; a string from it is the reason not to. `InputError` if no row is good."""
    any_good, first_bad = False, None
    for row, where in rows(path, quarantine):
        record = parse(row, where)
        if isinstance(record, str):
            quarantine.add(where, record, str(row))
            first_bad = first_bad or (where, record, ", ".join(map(str, row)) or "none")
        else:
            any_good = True
            yield record
    if any_good:
        return
    if first_bad:
        where, reason, columns = first_bad
        raise InputError("no row can be used", where=where, why=f"{reason}; the columns are {columns}",
                         hint=f"each row needs {expected}")
    damaged = f": {quarantine.entries[-1]['where']}: {quarantine.entries[-1]['why']}" if quarantine.entries else ""
    raise InputError("no row can be read", where=str(path),
                     why=f"{len(quarantine)} rows or files are damaged{damaged}" if len(quarantine) else "it is empty",
                     hint=f"each row needs {expected}")


def document(row: dict, where: str) -> Document | str:
    text = row.get("text")
    if "text" not in row:
        return "no column text"
    if not isinstance(text, str):
        return f"text is not a string: {type(text).__name__}"
    if not text.strip():
        return "empty text"
    return Document(text_id(text), text, str(row.get("source") or where))


def conversation(row: dict, where: str) -> Conversation | str:
    if "messages" in row:
        turns = messages(row["messages"])
    elif "prompt" in row and "completion" in row:
        prompt, completion = messages(row["prompt"], "user"), messages(row["completion"], "assistant")
        turns = next((part for part in (prompt, completion) if isinstance(part, str)), None) or prompt + completion
    else:
        return "no column messages, nor prompt and completion"
    if isinstance(turns, str):
        return turns
    if not any(turn.role == "assistant" for turn in turns):
        return "no assistant turn"
    if any(turn.role == "assistant" and not turn.content.strip() for turn in turns):
        return "empty answer"
    return Conversation(turns, str(row.get("task") or ""), str(row.get("id") or where))


def preference(row: dict, where: str) -> Preference | str:
    missing = [name for name in ("chosen", "rejected") if row.get(name) is None]
    if missing:
        return f"no column {missing[0]}"
    prompt = messages(row["prompt"], "user") if row.get("prompt") is not None else ()
    chosen, rejected = messages(row["chosen"], "assistant"), messages(row["rejected"], "assistant")
    for part in (prompt, chosen, rejected):
        if isinstance(part, str):
            return part
    if chosen[-1].role != "assistant" or rejected[-1].role != "assistant":
        return "the last turn of an answer is not the assistant's"
    if chosen[:-1] != rejected[:-1]:
        return "chosen and rejected answer different prompts"
    prompt = chosen[:-1] if chosen[:len(prompt)] == prompt else prompt + chosen[:-1]
    if not prompt:
        return "no prompt"
    if not chosen[-1].content.strip() or not rejected[-1].content.strip():
        return "empty answer"
    if chosen[-1].content == rejected[-1].content:
        return "equal answers"
    return Preference(prompt, chosen[-1].content, rejected[-1].content,
                      str(row.get("kind") or ""), str(row.get("id") or where))


def messages(value: Any, role: Role | None = None) -> tuple[Message, ...] | str:
    """Turns from a list of them, or one turn of `role` from a string; a string says what is wrong."""
    if isinstance(value, str) and role:
        return (Message(role, value),)
    if not isinstance(value, list) or not value:
        return f"not a list of messages: {type(value).__name__}" if value != [] else "an empty list of messages"
    for turn in value:
        if not isinstance(turn, dict) or not isinstance(turn.get("content"), str):
            return "a message without role and content"
        if turn.get("role") not in ROLES:
            return f"unknown role: {turn.get('role')!r}, not one of {', '.join(ROLES)}"
    return tuple(Message(turn["role"], turn["content"]) for turn in value)


def message_rows(turns: tuple[Message, ...]) -> list[dict]:
    return [{"role": turn.role, "content": turn.content} for turn in turns]


def conversation_row(conversation: Conversation) -> dict:
    """The row that `conversations` reads back."""
    return {"messages": message_rows(conversation.messages), "task": conversation.task, "id": conversation.id}


def preference_row(preference: Preference) -> dict:
    """The row that `preferences` reads back."""
    return {"prompt": message_rows(preference.prompt), "chosen": preference.chosen, "rejected": preference.rejected,
            "kind": preference.kind, "id": preference.id}
