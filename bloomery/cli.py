"""The command line. stdout is the result, stderr is progress; exit codes are those of the errors.

    0 done   1 failed   2 usage or configuration   3 a check failed   75 stopped and saved   130 stopped by Ctrl-C

What needs torch is imported by name when its command runs, so that `bloomery --help` answers at once.
"""

import json
import sys
import traceback
from collections.abc import Callable
from contextlib import nullcontext, redirect_stdout
from inspect import Parameter, signature
from io import StringIO
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.text import Text

from bloomery import __version__
from bloomery.core.artifacts import verify as verify_folder
from bloomery.core.config import Settings
from bloomery.core.errors import BloomeryError
from bloomery.core.metrics import console, say
from bloomery.decoding import ChatOptions, GenerateOptions, checked, decoding_threads
from bloomery.failures import failures_explained
from bloomery.stages import STAGES, Stage, load, load_module
from bloomery.texts import app as text_app

app = typer.Typer(
    name="bloomery", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    rich_markup_mode="rich", context_settings={"help_option_names": ["-h", "--help"]},
    help="From raw text to an aligned, served language model.\n\nstart here: bloomery run recipes/quickstart.toml",
    epilog="bloomery COMMAND --help has an example of each. --debug, anywhere, shows the traceback of an error.")

app.add_typer(text_app, name="text")

RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="a TOML recipe")]
Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="STAGE.KEY=VALUE", help="override an option")]
Out = Annotated[Path, typer.Option("--out", metavar="FOLDER", help="where run folders are made")]
ANYTHING = {"allow_extra_args": True, "ignore_unknown_options": True}
Model = Annotated[str, typer.Argument(metavar="MODEL", help="a model folder, or hf:org/name[@revision]")]
AsJson = Annotated[bool, typer.Option("--json", help="print one JSON object")]


def local(path: str) -> Path:
    """A path as it is, a hub id as the folder its files are in."""
    return Path(load_module("bloomery.model.hub").located(path) if path.startswith("hf:") else path)


def print_json(value: object) -> None:
    sys.stdout.write(json.dumps(value, indent=1, ensure_ascii=False) + "\n")


@app.command(epilog="example: bloomery run recipes/quickstart.toml --set base.steps=200 --dry-run")
def run(recipe: RecipeFile,
        only: Annotated[str | None, typer.Option(metavar="STAGE", help="this stage and what it needs")] = None,
        overrides: Overrides = None,
        dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would run, and what it costs")] = False,
        out: Out = Path("runs"), as_json: AsJson = False) -> None:
    """Run every stage of a recipe that is not done yet."""
    pipeline, shown = load_module("bloomery.pipeline"), load_module("bloomery.console")
    if dry_run:
        steps = pipeline.plan(pipeline.read_recipe(recipe, tuple(overrides or ())), out)
        found = load_module("bloomery.forecast").forecast(pipeline.wanted(steps, only))
        print_json(found) if as_json else shown.print_forecast(found)
        return
    steps, summary = pipeline.run(recipe, only=only, overrides=tuple(overrides or ()), out=out)
    print_json(summary) if as_json else shown.print_outcome(summary, steps[0].folder.parent)


@app.command(epilog="example: bloomery check recipes/quickstart.toml")
def check(recipe: RecipeFile, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Check a recipe and read all its data, without running anything."""
    found = load_module("bloomery.inspection").inspect(recipe, tuple(overrides or ()))
    print_json(found) if as_json else load_module("bloomery.console").print_inspection(found)


def takes(model: type[Settings]) -> Callable[[Callable], Callable]:
    """A command whose parameter `options` is gathered from one option of the command line for each field of `model`."""
    def widened(command: Callable) -> Callable:
        own = [parameter for parameter in signature(command).parameters.values() if parameter.name != "options"]

        def called(**given: object) -> None:
            values = {name: given.pop(name) for name in model.model_fields}
            command(**given, options=checked(model, values))

        fields = [Parameter(name, Parameter.KEYWORD_ONLY, default=field.get_default(call_default_factory=True),
                            annotation=Annotated[field.annotation, typer.Option(flag(name, field.annotation),
                                                                                help=field.description)])
                  for name, field in model.model_fields.items()]
        called.__signature__ = signature(command).replace(parameters=own + fields)
        called.__name__, called.__doc__ = command.__name__, command.__doc__
        return called
    return widened


def flag(name: str, kind: object) -> str:
    """`-n`, `--top-p`, and for what may also be unsaid `--plain` and `--no-plain`."""
    dashed = f"-{name}" if len(name) == 1 else f"--{name.replace('_', '-')}"
    return f"{dashed}/--no{dashed[1:]}" if kind == bool | None else dashed


@app.command(epilog="example: bloomery chat runs/quickstart/sft-1a2b3c4d5e --temperature 0.8")
@takes(ChatOptions)
def chat(model: Model, options: ChatOptions,
         ask: Annotated[str, typer.Option(metavar="QUESTION", help="ask this and end")] = "") -> None:
    """Talk to a model; questions may also come through a pipe, one a line."""
    talking = load_module("bloomery.chat")
    speaker = talking.open_chat(local(model), precision=options.precision, device=options.device)
    talking.talk(speaker, iter([ask]) if ask else talking.typed_lines(), options,
                 interactive=sys.stdin.isatty() and not ask)


@app.command(epilog="example: bloomery serve runs/quickstart/sft-1a2b3c4d5e best=runs/quickstart/dpo-6f7a8b9c0d")
def serve(models: Annotated[list[str], typer.Argument(metavar="[NAME=]MODEL...", help="folders of models, trainings "
                                                      "or checkpoints, or hf:org/name")],
          rewards: Annotated[list[str] | None, typer.Option("--reward", metavar="[NAME=]MODEL", help="a reward model "
                                                            "for best-of-n")] = None,
          host: Annotated[str, typer.Option(help="0.0.0.0 lets other machines in, with a key")] = "127.0.0.1",
          port: Annotated[int, typer.Option(help="0 takes a free one")] = 8000,
          tokenizer: Annotated[str, typer.Option(metavar="FOLDER", help="for a training that has none beside it")] = "",
          no_auth: Annotated[bool, typer.Option("--no-auth", help="let other machines in without a key")] = False,
          lenient: Annotated[bool, typer.Option("--lenient", help="ignore unknown fields, and say which")] = False,
          options: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="any other limit or "
                                                            "setting, as in --set slots=8")] = None) -> None:
    """Serve models over OpenAI's HTTP API, with a page to talk to them. Keys are read from BLOOMERY_KEYS."""
    decoding_threads()
    given = {"host": host, "port": port, "no_auth": no_auth, "lenient": lenient}
    serving = load_module("bloomery.serve.run")
    serving.serve(models, serving.settings_of(given, options or []), rewards=rewards or [], tokenizer=tokenizer)


@app.command(epilog="example: bloomery generate runs/quickstart/dpo-1a2b3c4d5e questions.jsonl answers.jsonl -n 4")
@takes(GenerateOptions)
def generate(model: Model, prompts: Annotated[Path, typer.Argument(metavar="PROMPTS", help="a file or folder of rows")],
             out: Annotated[Path, typer.Argument(metavar="OUT", help="the JSONL file to write, or to go on with")],
             options: GenerateOptions, as_json: AsJson = False) -> None:
    """Complete every prompt of a file; killed and run again, it goes on where it was."""
    decoding_threads()
    options = options.model_copy(update={"reward": [str(local(name)) for name in options.reward]})
    done = load_module("bloomery.completions").complete_file(local(model), prompts, out, options)
    print_json(done) if as_json else sys.stdout.write(f"{done['rows']} rows in {out}\n")


@app.command(epilog="example: bloomery score runs/quickstart/reward-1a2b3c4d5e answers.jsonl scored.jsonl")
def score(model: Model, rows: Annotated[Path, typer.Argument(metavar="ROWS", help="a file or folder of answers")],
          out: Annotated[Path, typer.Argument(metavar="OUT", help="the JSONL file to write, or to go on with")],
          also: Annotated[list[str] | None, typer.Option(metavar="MODEL", help="another reward model, with which the "
                                                         "first is an ensemble; may be given several times")] = None,
          combine: Annotated[Literal["mean", "min", "lower", "variance"], typer.Option(
              help="how several become one; lower, variance: the mean less k deviations, variances")] = "mean",
          k: Annotated[float, typer.Option("--k", min=0, help="how many deviations or variances are taken off")] = 1.0,
          normalise: Annotated[Path | None, typer.Option(metavar="ROWS", help="answers on which several are brought to "
                                                         "one scale; default: the first of those scored")] = None,
          as_json: AsJson = False) -> None:
    """Score every answer of a file with a reward model; killed and run again, it goes on where it was."""
    decoding_threads()
    done = load_module("bloomery.scores").score_file([local(name) for name in (model, *(also or ()))], rows, out,
                                                     how=combine, k=k, normalise=normalise)
    print_json(done) if as_json else sys.stdout.write(f"{done['rows']} rows in {out}\n")


@app.command(epilog="example: bloomery predict runs/sst2/classify-1a2b3c4d5e reviews.tsv predicted.jsonl")
def predict(model: Model, rows: Annotated[Path, typer.Argument(metavar="ROWS", help="a file or folder of rows")],
            out: Annotated[Path, typer.Argument(metavar="OUT", help="the JSONL file to write, or to go on with")],
            columns: Annotated[list[str] | None, typer.Option("--column", metavar="THEIRS=OURS", help="where their "
                                                              "columns have other names than ours")] = None,
            as_json: AsJson = False) -> None:
    """Say of every row of a file what a model of a task makes of it: labels, numbers, tags, answers."""
    decoding_threads()
    mapped = dict(column.partition("=")[::2] for column in columns or [])
    done = load_module("bloomery.predictions").predict_file(local(model), rows, out, columns=mapped)
    print_json(done) if as_json else sys.stdout.write(f"{done['rows']} rows in {out}\n")


@app.command(epilog="example: bloomery show runs/quickstart/curate-1a2b3c4d5e --reason word_count")
def show(path: Annotated[str, typer.Argument(metavar="PATH", help="a run's, a stage's or a model's folder, or data")],
         tokenizer: Annotated[Path | None, typer.Option(metavar="FOLDER", help="shows which tokens train")] = None,
         template: Annotated[str, typer.Option(help="chat template; auto: the tokenizer folder's own")] = "auto",
         reason: Annotated[str, typer.Option(help="only documents that curation dropped for it")] = "",
         count: Annotated[int, typer.Option("-n", "--count", min=1, help="rows to show")] = 5,
         attention: Annotated[str, typer.Option(metavar="TEXT", help="a page of what a model's heads look at in this "
                                                "text, or source")] = "",
         target: Annotated[str, typer.Option(metavar="TEXT", help="what it then writes; default its own")] = "",
         page: Annotated[Path, typer.Option("--out", metavar="FILE", help="the page of --attention")] = Path(
             "attention.html"),
         as_json: AsJson = False) -> None:
    """Show what is in a folder: drop reasons, what is trained on, pairs, a model's shape, a whole run."""
    shown = load_module("bloomery.show")
    if attention:
        load_module("bloomery.looking").draw(local(path), attention, page, target=target)
        sys.stdout.write(f"{page}\n")
    elif as_json:
        print_json(shown.as_json(local(path)))
    else:
        shown.show(local(path), tokenizer=tokenizer, count=count, reason=reason, template=template)


@app.command(epilog="example: bloomery rethreshold runs/quickstart/curate-1a2b3c4d5e gopher.word_count=20,none")
def rethreshold(folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="a curate stage's output")],
                limits: Annotated[list[str], typer.Argument(metavar="RULE=LOW,HIGH...", help="other limits")],
                as_json: AsJson = False) -> None:
    """Say what curation would have kept under other limits, without reading a text again."""
    deciding = load_module("bloomery.curate.rethreshold")
    found = deciding.rethreshold(folder, deciding.read_limits(limits))
    print_json(found) if as_json else sys.stdout.write(deciding.in_words(found))


@app.command(epilog="example: bloomery export runs/quickstart/dpo-1a2b3c4d5e mine --dtype bf16")
def export(model: Annotated[str, typer.Argument(metavar="MODEL", help="a model folder, a checkpoint, or hf:org/name")],
           out: Annotated[Path, typer.Argument(metavar="OUT", help="the folder to make")],
           dtype: Annotated[str, typer.Option(help="fp32, bf16 or fp16")] = "fp32",
           shard_gb: Annotated[float, typer.Option(min=0.001, help="the largest weight file, in GB")] = 5.0,
           tokenizer: Annotated[str, typer.Option(metavar="FOLDER", help="where the model has none")] = "",
           as_json: AsJson = False) -> None:
    """Write a model as a Hugging Face folder, and compare its logits; exit 3 when they differ."""
    found = load_module("bloomery.export").export(model, out, dtype=dtype, shard_gb=shard_gb, words=tokenizer)
    print_json(found) if as_json else load_module("bloomery.console").print_export(found)


@app.command(epilog="example: bloomery merge runs/mine/sft-1a2b3c4d5e/adapter merged --dtype bf16")
def merge(adapter: Annotated[str, typer.Argument(metavar="ADAPTER", help="the folder of an adapter, or hf:org/name")],
          out: Annotated[Path, typer.Argument(metavar="OUT", help="the folder to make")],
          base: Annotated[str, typer.Option(metavar="MODEL", help="its base; by default the one it names")] = "",
          dtype: Annotated[str, typer.Option(help="fp32, bf16 or fp16")] = "fp32",
          shard_gb: Annotated[float, typer.Option(min=0.001, help="the largest weight file, in GB")] = 5.0,
          as_json: AsJson = False) -> None:
    """Fold an adapter into its base, as a model of its own, and compare logits; exit 3 when they differ."""
    found = load_module("bloomery.merging").merge(adapter, out, base=base, dtype=dtype, shard_gb=shard_gb)
    print_json(found) if as_json else load_module("bloomery.console").print_export(found)


@app.command(epilog="example: bloomery verify runs/quickstart/base-1a2b3c4d5e")
def verify(folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="a finished stage's folder")],
           as_json: AsJson = False) -> None:
    """Compare every file of a finished output with its recorded hash; exit 3 when one differs."""
    count = verify_folder(folder)
    print_json({"folder": str(folder), "files": count}) if as_json else sys.stdout.write(f"{count} files as recorded\n")


@app.command(epilog="example: bloomery doctor")
def doctor(as_json: AsJson = False) -> None:
    """Say what this machine is, how fast it multiplies, and which optional parts are installed."""
    found = load_module("bloomery.doctor").examine()
    shown = load_module("bloomery.console")
    print_json({name: {"found": value, "try": hint} for name, value, hint in found}) if as_json else \
        shown.terminal().print(shown.table("what", "found", "to mend it", rows=[list(row) for row in found]))


@app.command()
def version() -> None:
    """Print the version."""
    sys.stdout.write(f"{__version__}\n")


def add_verb(verb: str, stage: Stage) -> None:
    """Give a verb its command: `key=value` arguments, checked like a recipe's table."""
    @app.command(verb, help=f"{stage.about}\n\nexample: {stage.example}", short_help=stage.about, add_help_option=False,
                 rich_help_panel="Stages, each also a command", context_settings=ANYTHING)
    def command(context: typer.Context) -> None:
        arguments = [argument for argument in context.args if argument != "--json"]
        shown = load_module("bloomery.console")
        if {"-h", "--help"} & set(arguments) or not arguments:
            shown.print_verb_help(verb, stage, load(verb)[0])
            return
        made = load_module("bloomery.pipeline").run_verb(verb, assignments(arguments))
        if "--json" in context.args:
            print_json(made.record)
        else:
            told = (made.folder / "dropped.parquet").is_file()      # curation has said them, as a funnel
            rows = [[key, shown.number(value)] for key, value in made.metrics.items()
                    if not (told and key.startswith("dropped/"))]
            shown.terminal().print(shown.table("metric", "value", rows=rows))
            say(f"written to {made.folder} in {made.record['seconds']:.1f} s")


def assignments(arguments: list[str]) -> list[str]:
    """`key=value`, `--key=value` and `--key value` alike; `--learning-rate` is `learning_rate`."""
    found, waiting = [], list(arguments)
    while waiting:
        argument = waiting.pop(0)
        if argument.startswith("--") and "=" not in argument and waiting:
            argument += f"={waiting.pop(0)}"
        key, equals, value = argument.partition("=")
        found.append(key.removeprefix("--").replace("-", "_") + equals + value)
    return found


for _verb, _stage in STAGES.items():
    add_verb(_verb, _stage)


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    quiet = console.quiet                                       # of a `torchrun` only rank 0 speaks
    try:
        with failures_explained(), redirect_stdout(StringIO()) if quiet else nullcontext():
            app(args=[argument for argument in arguments if argument != "--debug"], prog_name="bloomery")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BloomeryError as error:
        if "--debug" in arguments:
            traceback.print_exception(error)
        show_error(error)
        return error.exit_code
    return 0


def show_error(error: BloomeryError) -> None:
    """What, where, why and what to try, on stderr; its words are never taken for markup."""
    text = Text(str(error))
    text.highlight_regex(r"^(error|where|why|try):", "bold red")
    (Console(stderr=True) if console.quiet else console).print(text, soft_wrap=True)    # whichever rank it happened to


if __name__ == "__main__":
    sys.exit(main())
