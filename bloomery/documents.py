"""What a corpus holds, drawn for a person: documents and why others were dropped, and token shards read back.

What a rule counts is marked where it stands in a text: in colour, or in [[ ]] where there is none.
"""

import re
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from rich.console import Console, Group
from rich.text import Text

from bloomery.console import number, table
from bloomery.core.artifacts import file_hash
from bloomery.core.config import nearest
from bloomery.core.errors import InputError
from bloomery.curate.offending import Span, offending
from bloomery.data.shards import SPLITS, Shard, open_shard
from bloomery.lessons import mark
from bloomery.text.tokenizer import Tokenizer, load_tokenizer

EXCERPT = 280                   # characters of a document
BEFORE = 60                     # of them before the first place that is marked
PIECES = 64                     # tokens of a document of a shard


def show_curation(folder: Path, out: Console, count: int, reason: str) -> None:
    """Documents dropped by reason, some of them in full, and the first that were kept."""
    dropped = pq.ParquetFile(folder / "dropped.parquet")
    reasons = Counter((row["reason"], row["step"]) for row in dropped.read(["reason", "step"]).to_pylist())
    kept = pq.ParquetFile(folder / "documents.parquet")
    total = reasons.total() + kept.metadata.num_rows
    wanted = [pair for pair, _ in reasons.most_common() if reason in ("", pair[0], f"{pair[1]}.{pair[0]}")]
    if reason and not wanted:
        known = sorted({name for name, _ in reasons} | {f"{step}.{name}" for name, step in reasons})
        near = nearest(reason, known)
        raise InputError(f"nothing was dropped for the reason {reason}", where=str(folder),
                         hint=f"did you mean {near}?" if near else f"one of {', '.join(known)}" if known else "")
    if reasons:
        out.print(table("dropped for", "by step", "documents", "share", rows=[
            [name, step, str(many), f"{many / total:.1%}"] for (name, step), many in reasons.most_common()]))
    each = count if reason else -(-count // max(len(wanted), 1))
    for name, step in wanted:
        out.print(Text(f"\ndropped for {name}", style="bold red"))
        found = (row for batch in dropped.iter_batches() for row in batch.to_pylist()
                 if (row["reason"], row["step"]) == (name, step))
        for row in islice(found, each):
            out.print(document(row, offending(name, row["text"]), out))
    if not reason:
        out.print(Text(f"\nkept {kept.metadata.num_rows} of {total}", style="bold green"))
        for row in next(kept.iter_batches(batch_size=count)).to_pylist() if kept.metadata.num_rows else []:
            out.print(document(row, [], out))


def document(row: dict, spans: list[Span], out: Console) -> Group:
    """Where a document is from and a line of it, from shortly before the first of the places that are marked."""
    text, begin = row["text"], max(spans[0][0] - BEFORE, 0) if spans else 0
    end, shown, behind = begin + EXCERPT, Text("... " if begin else ""), begin
    for start, stop in spans:
        if behind <= start < end:
            shown.append(on_a_line(text[behind:start])).append_text(
                mark(on_a_line(text[start:min(stop, end)]), True, out, "bold red"))
            behind = min(stop, end)
    rest = on_a_line(text[behind:end] if end < len(text) else text[behind:].rstrip())
    shown.append(rest if begin or spans else rest.lstrip())
    return Group(Text(row["source"], style="cyan"),
                 shown if end >= len(text) else shown.append(f" ... ({len(text)} characters)"))


def on_a_line(text: str) -> str:
    return re.sub(r"\s+", " ", text)


def show_shards(folder: Path, out: Console, count: int, tokenizer: Path | None) -> None:
    """Both splits in numbers, and the first documents of each: tokens with a tokenizer, else ids."""
    shards = {split: open_shard(folder, split) for split in SPLITS}
    read = matching(tokenizer, shards["train"])
    out.print(table("split", "documents", "tokens", "bytes a token", "longest", rows=[
        [split, number(len(shard.ends)), number(len(shard.tokens)), bytes_a_token(shard),
         number(int(lengths(shard).max(initial=0)))] for split, shard in shards.items()]))
    for split, shard in shards.items():
        out.print(Text(f"\n{split}", style="bold cyan"))
        for index in range(min(count, len(shard.ends))):
            ids = shard.document(index)[:PIECES].tolist()
            more = int(lengths(shard)[index]) - len(ids)
            text = Text("|".join(on_a_line(read.decode([one])) for one in ids) if read else " ".join(map(str, ids)))
            out.print(text.append(f" ... ({more} more tokens)" if more else "", style="dim"))
    if not read:
        out.print(Text("--tokenizer FOLDER shows the ids as text", style="dim"))


def lengths(shard: Shard) -> np.ndarray:
    """Tokens of each document, its end-of-text included."""
    return np.diff(shard.ends, prepend=0)


def bytes_a_token(shard: Shard) -> str:
    return f"{shard.bytes_.sum() / max(len(shard.tokens), 1):.2f}" if shard.bytes_ is not None else "unknown"


def matching(folder: Path | None, shard: Shard) -> Tokenizer | None:
    """The tokenizer in a folder; `InputError` where shards were made with another."""
    if folder is None:
        return None
    if shard.tokenizer and shard.tokenizer != file_hash(Path(folder) / "tokenizer.json"):
        raise InputError("these shards were made with another tokenizer", where=str(folder),
                         why="its tokenizer.json is not the one that shards.json names")
    return load_tokenizer(Path(folder))
