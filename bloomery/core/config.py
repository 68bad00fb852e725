"""Configuration: a typed model beside the code that uses it, read from TOML, every error at once.

A stage's options are the fields of its `Settings`; unknown keys are errors.  A field of type `Input` is something the
stage reads: another stage's output (`"@name"`), a file or folder, or a built-in source (`"python:stdlib"`).

`check` turns what pydantic found into `Problem`s that say where the key stands, what it should be and where it belongs.
Values are taken strictly: the text "100" is no number, though 1e9 is a whole one.
"""

import json
import re
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from bloomery.core.errors import ConfigError
from bloomery.core.toml import Keys, toml_value


class Settings(BaseModel):
    """Base of every configuration: frozen, and no key that is not declared."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True)
class Reads:
    """Marks a field whose value is something a stage reads, and so takes part in its content hash."""


Input = Annotated[str, Reads()]


@dataclass(frozen=True)
class Free:
    """Marks an option that cannot change a result: how often to save, what to show. Content hashes leave it out."""


@dataclass(frozen=True)
class Fixed:
    """Marks an option that an unfinished run cannot change even if asked to: its checkpoints would not fit."""


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a configuration: where it stands and what to do about it."""

    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.where} {self.message}"


def raise_problems(problems: list[Problem], *, what: str, hint: str = "") -> None:
    """Raise one `ConfigError` that lists every problem; nothing when there is none."""
    if problems:
        count = "one problem" if len(problems) == 1 else f"{len(problems)} problems"
        lines = "".join(f"\n  {problem}" for problem in dict.fromkeys(problems))
        raise ConfigError(f"{count} in {what}{lines}", hint=hint)


# --- key=value on the command line --------------------------------------------------------------------------------

def read_assignment(text: str) -> tuple[tuple[str, ...], str]:
    """`optimizer.lr=1e-3` as its keys and the text of its value."""
    key, equals, value = text.partition("=")
    keys = tuple(part.strip() for part in key.split("."))
    if not equals or not all(keys):
        raise ConfigError(f"not an assignment: {text}", hint="write key=value, or section.key=value")
    return keys, value


def assign(table: dict[str, Any], keys: tuple[str, ...], text: str, model: type[Settings] | None) -> None:
    """Put a command-line value into nested tables, read as TOML where it can be.

    Quotes are rarely left by a shell, so text needs none; a field that takes only text keeps `100` as text, and one
    that takes a list splits `a,b` at the commas.
    """
    for key in keys[:-1]:
        if not isinstance(table.get(key), dict):
            table[key] = {}
        table = table[key]
    value, kinds = bare_value(text), field_kinds(model, keys)
    if kinds & {list, tuple} and not isinstance(value, list) and ("," in text or str not in kinds):
        value = [bare_value(part.strip()) for part in text.split(",")]
    elif kinds <= {str, NoneType} and kinds and not isinstance(value, str):
        value = text
    table[keys[-1]] = value


def bare_value(text: str) -> Any:
    """A TOML value, or the text itself when it is none."""
    try:
        return tomllib.loads(f"value = {text}")["value"] if "\n" not in text else text
    except tomllib.TOMLDecodeError:
        return {"True": True, "False": False}.get(text, text)


def field_kinds(model: type[Settings] | None, keys: Keys) -> set[Any]:
    """The plain types a field takes: {int}, {str, NoneType}, {tuple}; empty when there is no such field."""
    field = field_at(model, keys) if model else None
    return {get_origin(kind) or kind for kind in alternatives(field.annotation)} if field else set()


# --- what a model declares ----------------------------------------------------------------------------------------

def alternatives(annotation: Any) -> list[Any]:
    """The members of a union, or the annotation itself; `Annotated` is looked through, `Literal["a"]` counts as str."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return alternatives(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return [kind for part in get_args(annotation) for kind in alternatives(part)]
    if origin is Literal:
        return sorted({type(value) for value in get_args(annotation)}, key=str)
    return [annotation]


def models_in(annotation: Any) -> list[type[Settings]]:
    """Every `Settings` class inside an annotation: `Model | None`, `list[Model]`, ..."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return [annotation]
    return [model for part in get_args(annotation) for model in models_in(part)]


def models_at(model: type[Settings], keys: Keys) -> list[type[Settings]]:
    """The models that a table standing at `keys` may be."""
    models = [model]
    for key in keys:
        if isinstance(key, str):
            fields = [m.model_fields[key] for m in models if key in m.model_fields]
            models = [inner for field in fields for inner in models_in(field.annotation)]
    return models


def field_at(model: type[Settings], keys: Keys) -> FieldInfo | None:
    return next((m.model_fields[keys[-1]] for m in models_at(model, keys[:-1]) if keys[-1] in m.model_fields), None)


def sections(model: type[Settings], prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], type[Settings]]]:
    """A configuration and every table nested in it, with its place."""
    yield prefix, model
    for name, field in model.model_fields.items():
        for inner in models_in(field.annotation):
            yield from sections(inner, prefix + (name,))


@dataclass(frozen=True)
class Option:
    """One option as `--help` shows it."""

    name: str
    kind: str
    default: str
    description: str


def options(model: type[Settings], prefix: str = "") -> list[Option]:
    """Every option of a configuration in the order of its fields, nested ones with dotted names, plain ones first."""
    plain, nested = [], []
    for name, field in model.model_fields.items():
        inner = models_in(field.annotation)
        if inner and get_origin(field.annotation) not in (list, tuple, dict):
            nested += [option for m in inner for option in options(m, f"{prefix}{name}.")]
        else:
            plain.append(Option(prefix + name, kind_name(field), default_text(field), field.description or ""))
    return plain + nested


def kind_name(field: FieldInfo) -> str:
    return "input" if any(isinstance(mark, Reads) for mark in field.metadata) else annotation_name(field.annotation)


def annotation_name(annotation: Any) -> str:
    """A type as a person reads it: `int`, `a | b`, `list of str`, `input or none`."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return "input" if any(isinstance(mark, Reads) for mark in parts[1:]) else annotation_name(parts[0])
    if origin is Literal:
        return " | ".join(str(value) for value in parts)
    if origin in (Union, UnionType):
        return " or ".join(annotation_name(part) for part in parts)
    if is_fixed_list(annotation):
        return ", ".join(map(annotation_name, parts))
    if origin in (list, tuple, set, frozenset):
        return f"list of {annotation_name(parts[0])}"
    if origin is dict:
        return f"table of {annotation_name(parts[1])}"
    return "none" if annotation is NoneType else getattr(annotation, "__name__", str(annotation))


def is_fixed_list(annotation: Any) -> bool:
    """Whether a type is a list of so many values: `tuple[float, float]`."""
    return get_origin(annotation) is tuple and Ellipsis not in get_args(annotation)


def default_text(field: FieldInfo) -> str:
    """A field's default as it would be written in a recipe; `required` when there is none."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is PydanticUndefined or value is None or value == "":
        return "-"
    return value if isinstance(value, str) else toml_value(json.loads(json.dumps(value, default=str)))


def reads(config: Settings) -> list[tuple[Keys, str]]:
    """Every value of a field marked `Input`, with its place: what a stage reads. Empty and absent ones are left out."""
    return list(dict.fromkeys(inputs(type(config), config.model_dump(mode="json"))))


def inputs(model: type[Settings], values: dict[str, Any], keys: Keys = ()) -> Iterator[tuple[Keys, str]]:
    """The same of values that need not be valid: whatever stands as text where the model has an `Input`."""
    for name, value in values.items():
        if name in model.model_fields:
            field = model.model_fields[name]
            marks = [mark for mark in field.metadata if isinstance(mark, Reads)]
            annotation = Annotated[field.annotation, marks[0]] if marks else field.annotation
            yield from marked(value, annotation, (*keys, name))


def marked(value: Any, annotation: Any, keys: Keys) -> Iterator[tuple[Keys, str]]:
    """The texts in `value` that stand where the annotation has `Input`."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        if isinstance(value, str) and value and any(isinstance(mark, Reads) for mark in parts[1:]):
            yield keys, value
        else:
            yield from marked(value, parts[0], keys)
    elif origin in (Union, UnionType):
        for part in parts:
            yield from marked(value, part, keys)
    elif origin is dict and isinstance(value, dict):
        for key, part in value.items():
            yield from marked(part, parts[1], (*keys, key))
    elif origin in (list, tuple) and isinstance(value, list):
        for position, part in enumerate(value):
            yield from marked(part, parts[0], (*keys, position))
    elif isinstance(value, dict) and isinstance(annotation, type) and issubclass(annotation, Settings):
        yield from inputs(annotation, value, keys)


def essential(config: Settings) -> dict[str, Any]:
    """A configuration as JSON values without what is `Free`: what its result is a function of."""
    return without_free(type(config), config.model_dump(mode="json"))


def without_free(model: type[Settings], values: dict[str, Any]) -> dict[str, Any]:
    kept = {}
    for name, value in values.items():
        field = model.model_fields[name]
        if not any(isinstance(mark, Free) for mark in field.metadata):
            inner = models_in(field.annotation)
            kept[name] = without_free(inner[0], value) if len(inner) == 1 and isinstance(value, dict) and \
                value.keys() <= inner[0].model_fields.keys() else value
    return kept


def fixed(model: type[Settings], prefix: str = "") -> list[str]:
    """The dotted names of options marked `Fixed`; a marked table stands for all that is in it."""
    names = []
    for name, field in model.model_fields.items():
        if any(isinstance(mark, Fixed) for mark in field.metadata):
            names.append(prefix + name)
        else:
            names += [found for inner in models_in(field.annotation) for found in fixed(inner, f"{prefix}{name}.")]
    return names


def differences(before: Any, after: Any, keys: Keys = ()) -> dict[str, tuple[Any, Any]]:
    """Dotted names of values that differ between two JSON values, with both; None where one has nothing."""
    if isinstance(before, dict) and isinstance(after, dict):
        return {name: pair for key in sorted(before.keys() | after.keys())
                for name, pair in differences(before.get(key), after.get(key), (*keys, key)).items()}
    return {} if before == after else {dotted(keys): (before, after)}


# --- problems in words --------------------------------------------------------------------------------------------

def check(model: type[Settings], values: dict[str, Any], *, locate: Callable[[Keys], str],
          prefix: str = "") -> tuple[Settings | None, list[Problem]]:
    """A configuration from TOML values, or every problem with them.

    `locate(keys)` says where a key stands ("recipe.toml:17:"); `prefix` is put before keys in messages ("base.").
    JSON is the way in because pydantic's strict mode then still takes an array for a tuple and 3 for 3.0.
    """
    try:
        return model.model_validate_json(json.dumps(whole(values), default=str), strict=True), []
    except ValidationError as error:
        by_place: dict[Keys, list[str]] = {}
        for found in error.errors(include_url=False):
            if found["type"] == "default_factory_not_called":       # follows from a wrong value: no problem of its own
                continue
            keys = place(values, found["loc"], found["type"])
            message = in_words(found, model, keys, prefix)
            if message not in by_place.setdefault(keys, []):
                by_place[keys].append(message)
        return None, [Problem(locate(keys), f"{prefix}{dotted(keys)}: {', or '.join(messages)}" if keys else
                              f"{prefix.rstrip('.')}: ".removeprefix(": ") + ", or ".join(messages))
                      for keys, messages in by_place.items()]


def whole(value: Any) -> Any:
    """The same value with 1e9 as 1000000000, which a float field takes as readily as an int field."""
    if isinstance(value, dict):
        return {key: whole(part) for key, part in value.items()}
    if isinstance(value, list):
        return [whole(part) for part in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def place(values: Any, location: tuple, kind: str) -> Keys:
    """Where in the values an error stands: pydantic's location without the names of union members it puts between."""
    keys: Keys = ()
    for part in location:
        inside = part in values if isinstance(values, dict) else \
            isinstance(values, list) and isinstance(part, int) and part < len(values)
        if inside:
            keys, values = keys + (part,), values[part]
        elif kind == "missing" and part == location[-1] and not isinstance(values, list):
            keys += (part,)
    return keys


def dotted(keys: Keys) -> str:
    return re.sub(r"\.(\d+)(?=\.|$)", r"[\1]", ".".join(str(key) for key in keys))


KINDS = {"int": "a whole number", "float": "a number", "string": "text in quotes", "bool": "true or false",
         "list": "an array [...]", "tuple": "an array [...]", "dict": "a table", "model": "a table",
         "decimal": "a number", "set": "an array [...]"}
BOUNDS = {"greater_than": ("greater than", "gt"), "greater_than_equal": ("at least", "ge"),
          "less_than": ("less than", "lt"), "less_than_equal": ("at most", "le"),
          "multiple_of": ("a multiple of", "multiple_of")}


def in_words(error: dict, model: type[Settings], keys: Keys, prefix: str) -> str:
    """One pydantic error as a person would say it."""
    kind, context = error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        return unknown_key(model, keys, prefix)
    given = json.dumps(error["input"], ensure_ascii=False, default=str)
    given = given if len(given) <= 60 else given[:57] + "..."
    if kind == "missing":
        field = field_at(model, keys)
        if isinstance(error["input"], list):
            return f"needs {shape_of(field)}, is {given}"
        meaning = f": {field.description}" if field and field.description else ""
        return f"missing; it must be given ({kind_name(field) if field else 'value'}{meaning})"
    if kind in BOUNDS:
        words, name = BOUNDS[kind]
        return f"must be {words} {context[name]}, is {given}"
    if kind == "literal_error":
        near = nearest(str(error["input"]), re.findall(r"'([^']*)'", context["expected"]))
        return f"must be {context['expected']}, is {given}" + (f"; did you mean {near}?" if near else "")
    if kind.split("_")[0] in KINDS and kind.endswith(("_type", "_parsing", "_from_float")):
        return f"must be {KINDS[kind.split('_')[0]]}, is {given}"
    message = error["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    return message[:1].lower() + message[1:] + (f", is {given}" if keys and kind != "value_error" else "")


def shape_of(field: FieldInfo | None) -> str:
    """How many values a list of fixed length takes: by number and, where there is a default, as it stands there."""
    annotation = field.annotation if field else None
    count = next((len(get_args(part)) for part in (annotation, *get_args(annotation)) if is_fixed_list(part)), "more")
    usual = default_text(field) if field else ""
    return f"{count} values" + (f", as in {usual}" if usual.startswith("[") else "")


def unknown_key(model: type[Settings], keys: Keys, prefix: str) -> str:
    """Why a key is not known: the nearest one of its section, or the section of the same stage it belongs under."""
    key = str(keys[-1])
    here = [name for m in models_at(model, keys[:-1]) for name in m.model_fields]
    elsewhere = {name: prefix + ".".join(where) for where, m in sections(model) if where != keys[:-1]
                 for name in m.model_fields}
    if key in elsewhere:
        return f"unknown key here (belongs under {elsewhere[key].rstrip('.')})"
    if near := nearest(key, here):
        return f"unknown key; did you mean {near}?"
    if near := nearest(key, list(elsewhere)):
        return f"unknown key; did you mean {near}? (belongs under {elsewhere[near].rstrip('.')})"
    shown = ", ".join(here[:12]) + (", ..." if len(here) > 12 else "")
    return f"unknown key; this section knows {shown}" if here else "unknown key"


def nearest(word: str, known: list[str]) -> str | None:
    """The known word most like a mistyped one, or None when none is near."""
    folded = {name.lower().replace("-", "_"): name for name in known}
    found = get_close_matches(word.lower().replace("-", "_"), list(folded), n=1, cutoff=0.6)
    return folded[found[0]] if found else None
