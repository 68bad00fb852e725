"""From rows to records and back: documents, conversations, preferences, rankings, ratings and problems of any file.

Which format a row is in is told by its columns (`data/detect.py` has them all); how other tools write turns is
`data/dialects.py`.  Chosen and rejected may be whole dialogues: the last turn is the answer, those before it are the
prompt.  A row that cannot be used is quarantined with its reason; a file of which none can be used is an error that
says what it holds, what is expected, and the option that maps the columns.  Beside a format's own columns a row may
have `task` (of preferences `kind`), `id`, `weight`, `split`, `source` and `tools`; preferences also `margin`, and as
soft labels `share` or `votes`.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from math import isfinite
from pathlib import Path
from typing import Any, TypeVar

from bloomery.core.errors import InputError
from bloomery.core.files import Quarantine, rows
from bloomery.core.records import Conversation, Document, Preference, Problem, Ranking, Rating, text_id
from bloomery.data import stdlib
from bloomery.data.detect import Detector, Format, candidates
from bloomery.data.dialects import Turns, first, from_json, joined, messages, weight_of
from bloomery.model.hub import located

T = TypeVar("T")

SPLIT = re.compile(r"(?:^|[/_.-])(train|validation|valid|val|dev|test)(?=[/_.-])")      # in the name of a file
YES_NO = {"true": True, "false": False, "1": True, "0": False, "1.0": True, "0.0": False}


def placed(source: str) -> tuple[str, str]:
    """Where a source lies on this machine, and the folder from which its places are told. `InputError` if unknown."""
    local = located(source)
    if ":" in local and not Path(local).exists():
        raise InputError("unknown source", where=source,
                         hint=f"the built-in source is {stdlib.SOURCE}; else give a path")
    return local, str(Path(local) if Path(local).is_dir() else Path(local).parent) + "/"


def documents(source: str, quarantine: Quarantine) -> Iterator[Document]:
    """The documents of a file, a folder, a curation output, or `python:stdlib`; the default source is the place."""
    if source == stdlib.SOURCE:
        yield from stdlib.documents(quarantine)
        return
    source, base = placed(source)
    yield from records(inside(source, "documents.parquet"), quarantine,
                       parse=lambda row, where: document(row, where.removeprefix(base)),
                       advice=lambda columns: "each row needs a column `text` (and `source`)")


def conversations(path: str, quarantine: Quarantine, *, columns: Mapping[str, str] = {}) -> list[Conversation]:
    """All conversations of a file, a folder, a hub id or an instruction output; `columns` maps theirs to ours."""
    return detected(inside(path, "instructions.jsonl"), quarantine, "conversations", columns)


def preferences(path: str, quarantine: Quarantine, *, columns: Mapping[str, str] = {}) -> list[Preference]:
    """All preferences of a file, a folder, a hub id or a preference output; `columns` maps theirs to ours."""
    return detected(inside(path, "preferences.jsonl"), quarantine, "preferences", columns)


def rankings(path: str, quarantine: Quarantine, *, columns: Mapping[str, str] = {}) -> list[Ranking]:
    """All rankings of a file, a folder or a hub id: several answers to a prompt; `columns` maps theirs to ours."""
    return detected(inside(path, "rankings.jsonl"), quarantine, "rankings", columns)


def ratings(path: str, quarantine: Quarantine, *, columns: Mapping[str, str] = {}) -> list[Rating]:
    """All rated answers (KTO) of a file, a folder or a hub id; `columns` maps theirs to ours."""
    return detected(inside(path, "ratings.jsonl"), quarantine, "ratings", columns)


def problems(path: str, quarantine: Quarantine, *, columns: Mapping[str, str] = {}) -> list[Problem]:
    """All problems (prompt-only, verl's, RLVR) of a file, a folder or a hub id; `columns` maps theirs to ours."""
    return detected(inside(path, "problems.jsonl"), quarantine, "problems", columns)


def inside(path: str, name: str) -> Path:
    """The file of that name if `path` is a stage's output that has one: its other files are not for training."""
    path = Path(located(path))
    return path / name if (path / name).is_file() else path


def detected(path: Path, quarantine: Quarantine, kind: str, columns: Mapping[str, str]) -> list:
    """The records of one kind below `path`, each row in the format its columns tell."""
    detector = Detector(kind, columns, path)

    def parse(row: dict, where: str) -> Any:
        row = detector.renamed(row)
        form, split = detector.format_of(row, where), split_of(where, path)
        return PARSERS[kind](form, {"split": split} | row if split else row, where) if form else unknown(row)

    found = list(records(path, quarantine, parse=parse, advice=detector.advice))
    detector.finish()
    return found


def split_of(where: str, path: Path) -> str:
    """The split that the name of a row's file tells (`test-00000.parquet`, `test/a.jsonl`), if any."""
    file = where.rpartition(":")[0]
    names = SPLIT.findall(file.removeprefix(str(path)) if path.is_dir() else Path(file).name)
    return {"valid": "validation", "val": "validation", "dev": "validation"}.get(names[-1], names[-1]) if names else ""


def records(path: Path, quarantine: Quarantine, *, parse: Callable[[dict, str], T | str],
            advice: Callable[[list[str]], str]) -> Iterator[T]:
    """What `parse` makes of each row; a string from it is the reason not to. `InputError` if no row is good.

    `advice` says what is expected instead of the columns that the first bad row has.
    """
    any_good, first_bad = False, None
    for row, where in rows(path, quarantine):
        record = parse(row, where)
        if isinstance(record, str):
            quarantine.add(where, record, str(row))
            first_bad = first_bad or (where, record, [str(name) for name in row])
        else:
            any_good = True
            yield record
    if any_good:
        return
    if first_bad:
        where, reason, columns = first_bad
        why = reason if reason.endswith(", ".join(columns)) else f"{reason}; the columns are {', '.join(columns)}"
        raise InputError("no row can be used", where=where, why=why, hint=advice(columns))
    damaged = f": {quarantine.entries[-1]['where']}: {quarantine.entries[-1]['why']}" if quarantine.entries else ""
    raise InputError("no row can be read", where=str(path), hint=advice([]),
                     why=f"{len(quarantine)} rows or files are damaged{damaged}" if len(quarantine) else "it is empty")


# --- rows to records ----------------------------------------------------------------------------------------------

def record(row: dict, where: str) -> Document | Conversation | Preference | Ranking | Rating | Problem | str:
    """What a row is, whatever its kind: the first kind that has its columns, else what a conversation lacks."""
    row = {name: value for name, value in row.items() if value is not None}
    kinds = ("preferences", "rankings", "ratings", "conversations", "documents", "problems")
    for kind in kinds:
        if found := candidates(kind, frozenset(row)):
            return PARSERS[kind](found[0], row, where)
    return unknown(row)


def unknown(row: dict) -> str:
    return f"columns of no known format: {', '.join(map(str, row))}"


def document(row: dict, where: str) -> Document | str:
    text = row.get("text")
    if "text" not in row:
        return "no column text"
    if not isinstance(text, str):
        return f"text is not a string: {type(text).__name__}"
    if not text.strip():
        return "empty text"
    return Document(text_id(text), text, str(row.get("source") or where))


def conversation(form: Format, row: dict, where: str) -> Conversation | str:
    turns, weight, tools = form.dialogue(row), weight_of(row.get("weight", 1.0)), tools_of(row.get("tools"))
    if isinstance(turns, str):
        return turns
    if not any(turn.role == "assistant" for turn in turns):
        return "no assistant turn"
    if any(turn.role == "assistant" and not turn.spoken.strip() for turn in turns):
        return "empty answer"
    if row.get("label") is False or row.get("kto_tag") is False:
        return "an answer that is rated undesirable"
    if isinstance(weight, str):
        return weight
    if tools is None:
        return "tools is not a list of objects"
    return Conversation(turns, str(row.get("task") or ""), str(row.get("id") or where), weight,
                        str(row.get("split") or ""), str(row.get("source") or ""), tools)


def preference(form: Format, row: dict, where: str) -> Preference | str:
    prompt = form.dialogue({name: value for name, value in row.items() if name != "system"})
    chosen, rejected = messages(row["chosen"], "assistant"), messages(row["rejected"], "assistant")
    for part in (prompt, chosen, rejected):
        if isinstance(part, str):
            return part
    if chosen[-1].role != "assistant" or rejected[-1].role != "assistant":
        return "the last turn of an answer is not the assistant's"
    if chosen[:-1] != rejected[:-1]:
        return "chosen and rejected answer different prompts"
    prompt = chosen[:-1] if chosen[:len(prompt)] == prompt else prompt + chosen[:-1]
    prompt, chosen, rejected = joined(row, prompt) if prompt else "no prompt", chosen[-1].spoken, rejected[-1].spoken
    if isinstance(prompt, str):
        return prompt
    if not chosen.strip() or not rejected.strip():
        return "empty answer"
    if chosen == rejected:
        return "equal answers"
    margin, share = margin_of(row.get("margin")), share_of(row)
    if isinstance(margin, str) or isinstance(share, str):
        return margin if isinstance(margin, str) else share
    return Preference(prompt, chosen, rejected, str(row.get("kind") or ""), str(row.get("id") or where), margin, share)


def margin_of(value: Any) -> float | None | str:
    """By how much the better answer is better, None where nobody said; a string says what is wrong."""
    found = weight_of(value)
    return f"a margin that is not a number from 0 up: {value!r}" if isinstance(found, str) else found


def share_of(row: dict) -> float | str:
    """The share of votes for the chosen answer, from `share` or from `votes` (for the chosen, for the rejected)."""
    votes = from_json(row.get("votes"))
    if votes is None:
        share = weight_of(row.get("share", 1.0))
        return share if isinstance(share, float) and share <= 1 else f"a share not between 0 and 1: {row['share']!r}"
    found = [weight_of(count) for count in votes] if isinstance(votes, list) else []
    if len(found) != 2 or not all(isinstance(count, float) for count in found) or not sum(found):
        return f"votes that are not two counts, for the chosen and for the rejected answer: {votes!r}"
    return found[0] / sum(found)


def ranking(form: Format, row: dict, where: str) -> Ranking | str:
    """Answers with their ranks, 1 being best, or with scores, more being better; equal ones are ties."""
    prompt, answers = form.dialogue(row), from_json(row["answers"])
    if isinstance(prompt, str):
        return prompt
    if not isinstance(answers, list) or len(answers) < 2:
        return "answers is not a list of two or more"
    read = [messages(answer, "assistant") for answer in answers]
    if wrong := next((turns for turns in read if isinstance(turns, str)), None):
        return wrong
    if any(len(turns) != 1 or turns[0].role != "assistant" for turns in read):
        return "an answer is not one turn of the assistant"
    texts = tuple(turns[0].spoken for turns in read)
    if not all(text.strip() for text in texts):
        return "empty answer"
    told = from_json(row["scores" if form.name == "scored answers" else "ranks"])
    if not isinstance(told, list) or len(told) != len(texts) or not all(map(finite, told)):
        return f"not one finite number for each of {len(texts)} answers: {told!r}"
    keys = [-value for value in told] if form.name == "scored answers" else told
    ranks = tuple(sorted(set(keys)).index(key) + 1 for key in keys)
    if max(ranks) == 1:
        return "all answers are tied"
    by_text = {text: {rank for other, rank in zip(texts, ranks, strict=True) if other == text} for text in texts}
    if any(len(found) > 1 for found in by_text.values()):
        return "equal answers of different rank"
    return Ranking(prompt, texts, ranks, str(row.get("kind") or ""), str(row.get("id") or where))


def finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def rating(form: Format, row: dict, where: str) -> Rating | str:
    turns, label = form.dialogue(row), row.get("label", row.get("kto_tag"))
    if isinstance(turns, str):
        return turns
    desirable = YES_NO.get(str(label).lower())
    if desirable is None:
        return f"a label that is not true or false: {label!r}"
    if len(turns) < 2 or turns[-1].role != "assistant":
        return "no prompt, or the last turn is not the assistant's"
    if not turns[-1].spoken.strip():
        return "empty answer"
    return Rating(turns[:-1], turns[-1].spoken, desirable, str(row.get("id") or where))


def problem(form: Format, row: dict, where: str) -> Problem | str:
    """A prompt and its answer; of a dialogue that ends with one, the assistant's last turn is left off."""
    turns, reward = form.dialogue(row), from_json(row.get("reward_model"))
    if isinstance(turns, str):
        return turns
    if form.name == "verl" and not isinstance(reward, dict):
        return "reward_model is not an object"
    answer = reward.get("ground_truth") if form.name == "verl" else first(row, "ground_truth", "answer", "solution")
    turns = turns[:-1] if turns[-1].role == "assistant" else turns
    if not turns:
        return "no prompt"
    task = first(row, "task", "data_source", "dataset")
    return Problem(turns, only(answer), only(task), str(row.get("id") or where),
                   {name: value for name, value in row.items() if name not in ("prompt", "messages")})


def only(value: Any) -> str:
    """A text as it is, nothing as "", a list of one as its element (open-instruct's), anything else as JSON."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False)


def tools_of(value: Any) -> tuple[dict, ...] | None:
    """The tools of a conversation from a list or its JSON; None if it is neither."""
    value = from_json(value or [])
    return tuple(value) if isinstance(value, list) and all(isinstance(tool, dict) for tool in value) else None


# --- records to rows ----------------------------------------------------------------------------------------------

def message_rows(turns: Turns) -> list[dict]:
    """Turns as the OpenAI API writes them; what a turn does not have is left out."""
    return [{"role": turn.role, "content": turn.content} |
            ({} if turn.weight is None else {"weight": turn.weight}) |
            ({"reasoning_content": turn.thinking} if turn.thinking else {}) |
            ({"tool_calls": list(turn.tool_calls)} if turn.tool_calls else {}) for turn in turns]


def conversation_row(conversation: Conversation) -> dict:
    """The row that `conversations` reads back."""
    more = {"weight": conversation.weight, "split": conversation.split, "source": conversation.source,
            "tools": list(conversation.tools)}
    usual = {"weight": 1.0, "split": "", "source": "", "tools": []}
    return {"messages": message_rows(conversation.messages), "task": conversation.task, "id": conversation.id} | {
        name: value for name, value in more.items() if value != usual[name]}


def preference_row(preference: Preference) -> dict:
    """The row that `preferences` reads back."""
    return {"prompt": message_rows(preference.prompt), "chosen": preference.chosen, "rejected": preference.rejected,
            "kind": preference.kind, "id": preference.id} | \
        ({} if preference.margin is None else {"margin": preference.margin}) | \
        ({} if preference.share == 1.0 else {"share": preference.share})


def ranking_row(ranking: Ranking) -> dict:
    """The row that `rankings` reads back."""
    return {"prompt": message_rows(ranking.prompt), "answers": list(ranking.answers), "ranks": list(ranking.ranks),
            "kind": ranking.kind, "id": ranking.id}


PARSERS = {"documents": lambda form, row, where: document(row, where), "conversations": conversation,
           "preferences": preference, "rankings": ranking, "ratings": rating, "problems": problem}
