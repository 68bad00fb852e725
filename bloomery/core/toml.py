"""TOML with positions: `tomllib` says what a file holds, `key_lines` on which line each key stands.

`dump_toml` writes the plain values that configurations are made of: no dates, and `None` is left out.
"""

import json
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bloomery.core.errors import ConfigError

Keys = tuple[str | int, ...]            # where a value stands: ("base", "optimizer", "lr"), with numbers inside arrays


def read_toml(path: Path) -> tuple[dict[str, Any], dict[Keys, int]]:
    """A TOML file's values, and the line on which each key stands. `ConfigError` names the line that does not parse."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError):
        others = ", ".join(sorted(str(found) for found in Path(path).parent.glob("*.toml")))
        hint = f"one of {others}" if others else ""
        raise ConfigError("there is no such recipe", where=str(path), hint=hint) from None
    except UnicodeDecodeError as error:
        raise ConfigError("the recipe is not UTF-8 text", where=str(path), why=str(error)) from None
    try:
        return tomllib.loads(text), key_lines(text)
    except tomllib.TOMLDecodeError as error:
        message, _, position = str(error).partition(" (at ")
        line = re.match(r"line (\d+)", position)
        twice = re.match(r"Cannot (overwrite|declare)", message)
        number = line[1] if line else len(text.splitlines())
        raise ConfigError("the recipe is not valid TOML", where=f"{path}:{number}",
                          why=f"the same key or table is given twice ({message})" if twice else message,
                          hint="keep one of the two" if twice else "text stands in quotes, a table is [name]") from None


def key_lines(text: str) -> dict[Keys, int]:
    """The first line of every key and table of a valid TOML document.

    A TOML statement is the fewest whole lines that parse alone, so the parser itself finds where each one ends.
    """
    found: dict[Keys, int] = {}
    table: Keys = ()
    arrays: dict[Keys, int] = {}
    statement, first = "", 1
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        first = first if statement else number
        statement += line
        try:
            parsed = tomllib.loads(statement)
        except tomllib.TOMLDecodeError:
            continue
        if statement.lstrip().startswith("["):
            table = ()
            while parsed:
                (key, parsed), = parsed.items()
                table += (key,)
                if isinstance(parsed, list):                # [[table]]: one more element
                    arrays[table] = arrays.get(table, -1) + 1
                    parsed = parsed[0]
                if table in arrays:                         # [table.part] belongs to the newest element
                    found.setdefault(table, first)
                    table += (arrays[table],)
            found.setdefault(table, first)
        else:
            for keys in walk(parsed):
                found.setdefault(table + keys, first)
        statement = ""
    return found


def walk(value: Any, keys: Keys = ()) -> Iterator[Keys]:
    """The place of every value inside nested tables and arrays, outermost first."""
    if keys:
        yield keys
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    for key, part in inner:
        yield from walk(part, keys + (key,))


def replace(value: Any, change: Callable[[str], str]) -> Any:
    """The same nested value with `change` applied to every text in it (not to keys)."""
    if isinstance(value, dict):
        return {key: replace(part, change) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [replace(part, change) for part in value]
    return change(value) if isinstance(value, str) else value


def overlaid(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Two nested tables as one: where both have a value `above` has its way, where both have a table they are mixed."""
    return below | {key: overlaid(below[key], value) if isinstance(value, dict) and isinstance(below.get(key), dict)
                    else value for key, value in above.items()}


def dump_toml(table: dict[str, Any], name: Keys = ()) -> str:
    """A nested dict as TOML: plain values first, then one `[section]` a dict. `None` has no TOML and is left out."""
    sections = {key: value for key, value in table.items() if isinstance(value, dict)}
    lines = [f"{toml_key(key)} = {toml_value(value)}\n" for key, value in table.items()
             if key not in sections and value is not None]
    header = f"[{'.'.join(toml_key(str(key)) for key in name)}]\n" if name and (lines or not sections) else ""
    parts = [header + "".join(lines)] + [dump_toml(value, name + (key,)) for key, value in sections.items()]
    return "\n".join(part for part in parts if part)


def toml_key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else toml_value(key)


def toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, dict):
        inner = ", ".join(f"{toml_key(key)} = {toml_value(part)}" for key, part in value.items() if part is not None)
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(toml_value(part) for part in value if part is not None)}]"
    return repr(value)
