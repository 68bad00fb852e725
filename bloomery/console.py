"""Results as a person reads them on a terminal: tables and texts, on stdout, readable without colour too."""

import json
import sys
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bloomery.core.config import Option, Settings, options, sections
from bloomery.core.metrics import duration, shorten
from bloomery.stages import Stage

MAIN_NUMBERS = 5                # of a stage's metrics, as many as fit beside its name
# Shown first, in this order.
TELLING = ("bpb", "answer_nll", "well_formed", "exact_match", "accuracy", "perplexity", "loss")
LEFT_OUT = ("dropped", "skipped", "quarantined", "val_rewards", "val_logps", "val_preference")     # of the table
ANSWERS = 6
WIDE = 100                      # columns from which the types of options are shown too


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


def print_outcome(summary: dict, root: Path) -> None:
    """Every stage with its seconds and main numbers, the answers side by side, where the report is, how to chat."""
    out = terminal()
    folders = [root / stage["folder"] for stage in summary["stages"].values()]
    rows = []
    for name, stage in summary["stages"].items():
        rows.append([name, f"{stage['seconds']:.1f}", main_numbers(stage["metrics"], list(summary["stages"]))])
    rows.append(["all", f"{summary['seconds']:.1f}", f"peak memory {summary['peak_memory_gb']:.2f} GB"])
    out.print(table("stage", "seconds", "numbers", rows=rows))
    for answers in (folder / "answers.json" for folder in folders):
        if answers.is_file() and (found := json.loads(answers.read_text(encoding="utf-8"))):
            print_answers(out, found)
    if (root / "report.html").is_file():
        out.print(f"report  {root / 'report.html'}", markup=False, soft_wrap=True)
    models = [folder for folder in folders if (folder / "model.safetensors").is_file()
              and (folder / "chat_template.jinja").is_file()]
    if models:
        out.print(f"chat    bloomery chat {models[-1]}", markup=False, soft_wrap=True)


def main_numbers(metrics: dict, stages: list[str]) -> str:
    """The few metrics worth a line. What an evaluation measured of other stages stands at those stages, not here.

    Where the model trained before had another value ("answer_nll_base" at sft), both are shown: `before -> after`.
    """
    elsewhere = [name for name in stages if any(key.startswith(f"{name}.") for key in metrics)]
    beside = tuple(f"_{name}" for name in stages)
    kept = [key for key, value in metrics.items() if isinstance(value, int | float | str) and not key.endswith(beside)
            and not key.startswith(LEFT_OUT) and key.partition(".")[0] not in elsewhere]
    old = {key: metrics[key + end] for key in kept for end in beside if key + end in metrics}
    rank = {key: next((i for i, word in enumerate(TELLING) if word in key), len(TELLING)) for key in kept}
    shown = [f"{key} " + (f"{number(old[key])} -> " if key in old else "") + number(metrics[key])
             for key in sorted(kept, key=rank.__getitem__)[:MAIN_NUMBERS]]
    return "  ".join(shown) or (f"measured {', '.join(elsewhere)}: see there" if elsewhere else "")


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
    rows = [[row["stage"], row["verb"], row["state"],
             *(shorten(row[key]) if key in row else "" for key in ("parameters", "tokens")),
             f"{row['memory_gb']:.2g} GB" if "memory_gb" in row else "",
             duration(row["seconds"]) if "seconds" in row else ""] for row in found["stages"]]
    names = ["stage", "verb", "state", "parameters", "tokens", "memory", "time"]
    used = [position for position in range(len(names)) if position < 3 or any(row[position] for row in rows)]
    out.print(table(*(names[i] for i in used), rows=[[row[i] for i in used] for row in rows]))
    for note in dict.fromkeys(row["note"] for row in found["stages"] if "note" in row):
        stages = ", ".join(row["stage"] for row in found["stages"] if row.get("note") == note)
        out.print(Text(f"{stages}: {note}", style="dim"))
    rest = f", not counting {', '.join(found['without_forecast'])}" if found["without_forecast"] else ""
    running = any(row["state"] == "to run" for row in found["stages"])
    out.print(f"time  {duration(found['seconds'])}{rest}" if running else "nothing to run", markup=False)
    for warning in found["warnings"]:
        out.print(Text(f"warning: {warning}", style="yellow"))


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


def print_export(found: dict) -> None:
    """What was written, and how near its logits are to those of the model it was made from."""
    out = terminal()
    out.print(table("file", "MB", "tensors", "type", rows=[
        [file["name"], f"{file['bytes'] / 1e6:.1f}", str(file["tensors"]), ", ".join(file["types"])]
        for file in found["files"]]))
    if "merging" in found:
        out.print(f"{found['base']} with its adapter, merged; that moved logits by {found['merging']:.2g}",
                  markup=False, soft_wrap=True)
    rounding = f"; rounding to {found['dtype']} moved them by {found['rounding']:.2g}" if found["rounding"] else ""
    out.print(f"{found['folder']}  {shorten(found['parameters'])} parameters, read by {found['reader']}", markup=False,
              soft_wrap=True)
    out.print(f"logits of {found['prompts']} prompts differ by {found['difference']:.2g} at most, "
              f"{found['tolerance']:.2g} is allowed{rounding}", markup=False, soft_wrap=True)


def print_verb_help(verb: str, stage: Stage, model: type[Settings]) -> None:
    """What a verb does, an example, and every option with type, default and meaning, section by section."""
    out = terminal()
    nested = "section.key=value ... " if len(list(sections(model))) > 1 else ""
    out.print(Text.assemble(("usage: ", "bold"), f"bloomery {verb} key=value ... {nested}out=FOLDER [--json] [--debug]",
                            "\n\n", stage.about, "\n\n", ("example: ", "bold"), stage.example))
    tables = {keys: [option for option in options(part) if "." not in option.name] for keys, part in sections(model)}
    tables[()].append(Option("out", "folder", "required", "where the result is written"))
    texts = dict(sections(model))
    names = max(len(option.name) for found in tables.values() for option in found)
    for keys, found in tables.items():
        if keys:
            out.print(Text.assemble((f"[{'.'.join(keys)}]", "bold"), f"  {first_line(texts[keys])}"), soft_wrap=True)
        out.print(option_table(found, {} if keys else stage.preset, names, out.width, show_header=not keys))


def option_table(found: list[Option], preset: dict, names: int, width: int, *, show_header: bool) -> Table:
    """Options with default and meaning, and where there is room with their types."""
    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_header=show_header)
    drawn.add_column("option", style="cyan", no_wrap=True, min_width=names)
    if width >= WIDE:
        drawn.add_column("type", style="dim", width=22)
    drawn.add_column("default", width=14)
    drawn.add_column("meaning")
    for option in found:
        default = str(preset[option.name]) if option.name in preset else option.default
        kind = [option.kind] if width >= WIDE else []
        drawn.add_row(*map(Text, (option.name, *kind, default, option.description)))
    return drawn


def first_line(model: type[Settings]) -> str:
    """What a configuration says of itself in one line."""
    return (model.__doc__ or "").partition("\n")[0]
