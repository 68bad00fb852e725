"""`bloomery generate` with a network that reads a source: a file of sources in, the same rows with `completions` out.

A row has `ids`, fed as they are, or the text of a `source` (also called `prompt` or `text`), before which any task
prefix stands already.  Completions are as in `completions.py`: one, n drawn at a temperature, or the n best of a beam
search, with their scores.  Row r draws with a seed that is a function of (seed, r).  Sources are read in groups cut
from the file, so that a stop changes no batch and no digit; killed and run again, it goes on where it was.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from bloomery import __version__
from bloomery.core.artifacts import tree_hash
from bloomery.core.errors import ConfigError, Preempted
from bloomery.core.metrics import progress
from bloomery.decoding import GenerateOptions
from bloomery.generate.beam import Beam
from bloomery.generate.seq2seq import beamed, drawn
from bloomery.model.seq2seq_files import load_seq2seq
from bloomery.model.seq2seq_presets import Network
from bloomery.model.store import load_generation
from bloomery.row_files import COMPLETIONS, begun, continued, model_hash, read_all, row_seed
from bloomery.speaker import sampling
from bloomery.text.tokenizer import Tokenizer, load_tokenizer
from bloomery.train.hooks import stop_signal
from bloomery.train.precision import choose, placed

GROUP = 128                     # sources that are read together
TEXTS = ("source", "prompt", "text")
OF_OTHERS = ("system", "plain", "reward", "best_of", "stop", "min_tokens")      # options that ask for a language model


@dataclass(frozen=True)
class Source:
    """One row of the file, and what is read of it."""

    row: dict
    ids: list[int]


@dataclass(frozen=True)
class Writer:
    """A network that reads sources, with its tokenizer, if it has one, and how its targets end."""

    network: Network
    tokenizer: Tokenizer | None
    ends: frozenset[int]

    def __call__(self, sources: Sequence[Source], first: int, options: GenerateOptions) -> list[list[Beam]]:
        """The targets of sources, of which the first is so many rows down the file."""
        about = {"ends": self.ends, "max_tokens": options.max_tokens}
        given = [source.ids for source in sources]
        if options.beams > 1:
            found = beamed(self.network, given, beams=options.beams, length_penalty=options.length_penalty, **about)
            return [beams[:options.n] for beams in found]
        seeds = [row_seed(options.seed, first + place) for place in range(len(given))]
        return drawn(self.network, given, how=sampling(options), seeds=seeds, samples=options.n, **about)

    def written_down(self, target: Beam, options: GenerateOptions) -> dict:
        return {"text": self.tokenizer.decode(target.ids).strip() if self.tokenizer else "", "finish": target.finish,
                "logp": round(target.logp, 6)} | ({"score": round(target.score, 6)} if options.beams > 1 else {}) | \
            ({"ids": target.ids} if options.ids or not self.tokenizer else {})


def open_writer(folder: Path, *, precision: str = "fp32", device: str = "auto") -> Writer:
    network = load_seq2seq(folder, compute=choose(precision, device=device)[0]).eval().to(placed(device))
    tokenizer = load_tokenizer(folder) if (folder / "tokenizer.json").is_file() else None
    ends = load_generation(folder).get("eos_token_id")
    return Writer(network, tokenizer, frozenset([ends] if isinstance(ends, int) else ends or ()))


def write_targets(model: Path, sources: Path, out: Path, options: GenerateOptions) -> dict:
    """Write targets of every source of a file into `out`, or go on where an earlier run of the same options stopped.

    Raises `InputError` with the bad rows of the file before any work, `ConfigError` for options of other models.
    """
    if idle := [name for name in OF_OTHERS if getattr(options, name) != GenerateOptions.model_fields[name].get_default(
            call_default_factory=True)]:
        raise ConfigError(f"{', '.join(idle)}: not for a network that reads a source", where=str(model),
                          hint="it takes -n, --beams, --length-penalty, --temperature and the other ways to draw, "
                               "--max-tokens, --seed, --ids")
    about = {"version": __version__, "model": model_hash(model), "prompts": tree_hash(sources),
             "options": options.model_dump(mode="json", exclude={"device"})}

    def work(part: BinaryIO) -> dict:
        writer = open_writer(model, precision=options.precision, device=options.device)
        asked = read_all(sources, lambda row, where: source_of(row, writer), what="source")
        begin = begun(out, part, about, [each.row for each in asked], COMPLETIONS, group=GROUP)
        with stop_signal.caught():
            tokens = write_all(part, writer, asked, begin, options)
        return {"rows": len(asked), "done_before": begin, "generated_tokens": tokens}

    return continued(out, about, work)


def source_of(row: dict, writer: Writer) -> Source | str:
    """One row as ids with their end; a string says why not."""
    text, ids = next((row[name] for name in TEXTS if isinstance(row.get(name), str)), ""), row.get("ids")
    config = writer.network.config
    if COMPLETIONS in row:
        return f"it already has a column {COMPLETIONS}"
    if ids is None and not text.strip():
        return f"no text to be read in {', '.join(TEXTS)}"
    if ids is None and not writer.tokenizer:
        return "no column ids, and the model has no tokenizer for anything else"
    ids = [*writer.tokenizer.encode(text), writer.tokenizer.eos] if ids is None else ids
    if not isinstance(ids, list) or not all(type(id) is int and 0 <= id < config.vocabulary for id in ids):
        return f"ids is no list of whole numbers below {config.vocabulary}"
    if not 0 < len(ids) <= config.context:
        return f"it has {len(ids)} tokens, the model reads 1 to {config.context}"
    return Source(row, ids)


def write_all(part: BinaryIO, writer: Writer, asked: Sequence[Source], begin: int, options: GenerateOptions) -> int:
    """Append the rows from `begin` on, a group at a time; the tokens that were written."""
    tokens, firsts = 0, range(begin, len(asked), GROUP)
    for first in progress(firsts, name="generate, groups of sources", total=len(firsts)):
        if stop_signal.reason:
            raise Preempted("stopped", why=stop_signal.reason,
                            hint=f"{first} of {len(asked)} rows are kept; run the same command again to go on")
        group = asked[first:first + GROUP]
        for source, targets in zip(group, writer(group, first, options), strict=True):
            found = [writer.written_down(target, options) for target in targets]
            part.write((json.dumps(source.row | {COMPLETIONS: found}, ensure_ascii=False) + "\n").encode())
            tokens += sum(len(target.ids) + (target.end is not None) for target in targets)
        part.flush()
    os.fsync(part.fileno())
    return tokens
