"""Results as a person reads them on a terminal: tables and texts, on stdout, readable without colour too."""

import json
import sys
from pathlib import Path

from rich import box
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from bloomery.core.config import Settings, options
from bloomery.core.metrics import shorten
from bloomery.pipeline import Step
from bloomery.stages import Stage

MAIN_NUMBERS = 4                # of a stage's metrics, as many as fit beside its name
ANSWERS = 6


def terminal() -> Console:
    """Where results go; 110 columns wide when it is no terminal, so that tables in files are not cut."""
    return Console(file=sys.stdout, highlight=False, width=None if sys.stdout.isatty() else 110)


def table(*columns: str, rows: list[list[str]], title: str = "") -> Table:
    """A plain table; columns whose cells all read as numbers stand to the right. Cells are text, never markup."""
    drawn = Table(box=box.SIMPLE_HEAD, title=title or None, title_justify="left", pad_edge=False)
    for position, name in enumerate(columns):
        numeric = all(row[position][:1].isdigit() or not row[position] for row in rows)
        drawn.add_column(name, justify="right" if numeric and rows else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(cell) for cell in row))
    return drawn


def number(value: object) -> str:
    return shorten(value) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def print_outcome(steps: list[Step], summary: dict, root: Path) -> None:
    """Every stage with its seconds and main numbers, the answers side by side, where the report is, how to chat."""
    out = terminal()
    rows = []
    for name, stage in summary["stages"].items():
        plain = [(key, value) for key, value in stage["metrics"].items() if isinstance(value, int | float | str)]
        numbers = "  ".join(f"{key} {number(value)}" for key, value in plain[:MAIN_NUMBERS])
        rows.append([name, f"{stage['seconds']:.1f}", numbers])
    rows.append(["all", f"{summary['seconds']:.1f}", f"peak memory {summary['peak_memory_gb']:.2f} GB"])
    out.print(table("stage", "seconds", "numbers", rows=rows))
    for step in steps:
        if (step.folder / "answers.json").is_file():
            print_answers(out, json.loads((step.folder / "answers.json").read_text(encoding="utf-8")))
    if (root / "report.html").is_file():
        out.print(f"report  {root / 'report.html'}", markup=False, soft_wrap=True)
    models = [step.folder for step in steps if (step.folder / "model.safetensors").is_file()]
    if models:
        out.print(f"chat    bloomery chat {models[-1]}", markup=False, soft_wrap=True)


def print_answers(out: Console, answers: list[dict]) -> None:
    """Prompts with what each model answers, side by side, and how many more the file has."""
    names = list(dict.fromkeys(name for row in answers for name in row["answers"]))
    rows = [[text_of(row["prompt"]), str(row.get("expected") or ""), *(row["answers"].get(name, "") for name in names)]
            for row in answers[:ANSWERS]]
    drawn = Table(box=box.SIMPLE_HEAD, show_lines=True, pad_edge=False,
                  caption=f"{len(answers) - ANSWERS} more in answers.json" if len(answers) > ANSWERS else None)
    for name in ("prompt", "expected", *names):
        drawn.add_column(name, ratio=2 if name == "prompt" else 3, overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(cell if len(cell) <= 200 else cell[:197] + "...") for cell in row))
    out.print(drawn)


def text_of(prompt: str | list[dict]) -> str:
    """A prompt, given as text or as messages, as text."""
    return prompt if isinstance(prompt, str) else "\n".join(turn["content"] for turn in prompt)


def print_forecast(found: dict) -> None:
    """The plan: what is done, what is to run, and what it will cost as far as that can be told."""
    out = terminal()
    rows = [[row["stage"], row["verb"], row["state"], row["hash"],
             *(shorten(row[key]) if key in row else "" for key in ("parameters", "tokens")),
             f"{row['memory_gb']:.2g} GB" if "memory_gb" in row else "",
             duration(row["seconds"]) if "seconds" in row else "", row.get("note", "")] for row in found["stages"]]
    names = ["stage", "verb", "state", "hash", "parameters", "tokens", "memory", "time", "note"]
    used = [position for position in range(len(names)) if position < 4 or any(row[position] for row in rows)]
    out.print(table(*(names[i] for i in used), rows=[[row[i] for i in used] for row in rows]))
    rest = f", not counting {', '.join(found['without_forecast'])}" if found["without_forecast"] else ""
    out.print(f"time  {duration(found['seconds'])}{rest}", markup=False)
    for warning in found["warnings"]:
        out.print(Text(f"warning: {warning}", style="yellow"))


def duration(seconds: float) -> str:
    """12 s, 3 min 20 s, 5 h 10 min."""
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def print_inspection(found: dict) -> None:
    """Every input of a recipe with its rows, usable and not, and the first that are not."""
    out = terminal()
    rows = [[row["option"], row["input"], row["kind"], str(row.get("rows", "")), str(row.get("unusable", ""))]
            for row in found["inputs"]]
    if rows:
        out.print(table("option", "input", "kind", "rows", "unusable", rows=rows))
    for row in found["inputs"]:
        for entry in row.get("examples", []):
            out.print(Text(f"{entry['where']}: {entry['why']}", style="yellow"))
    out.print(f"{found['recipe']}: {found['stages']} stages, no problem", markup=False)


def print_verb_help(verb: str, stage: Stage, model: type[Settings]) -> None:
    """What a verb does, an example, and every option with type, default and meaning."""
    out = terminal()
    out.print(Text.assemble(("usage: ", "bold"), f"bloomery {verb} key=value ... out=FOLDER [--json] [--debug]\n\n",
                            stage.about, "\n\n", ("example: ", "bold"), stage.example))
    rows = [[option.name, option.kind, option.default, option.description] for option in options(model)]
    rows.append(["out", "folder", "required", "where the result is written"])
    for row in rows:
        preset = stage.preset.get(row[0])
        row[2] = str(preset) if preset is not None else row[2]
    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name, style in (("option", "cyan"), ("type", ""), ("default", ""), ("meaning", "")):
        drawn.add_column(name, style=style, overflow="fold", ratio=3 if name == "meaning" else None,
                         no_wrap=name == "option")
    for row in rows:
        drawn.add_row(*(Text(cell) for cell in row))
    out.print(drawn)
    if (model.__doc__ or "") != (Settings.__doc__ or "") and model.__doc__:
        out.print(Panel(Text(" ".join(model.__doc__.split())), box=box.SIMPLE))
