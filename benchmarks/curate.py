"""Case `curate`: the published filters over real text, against datatrove's local executor with the same rules.

    python -m benchmarks.curate SIDE DATA EVERY SPLIT

runs one side in this process and prints one JSON line.  Texts are web pages (C4, DCLM's labelled pages, samples of
seven corpora), Reuters-21578 and Wikipedia, every `EVERY`th of them.  Both sides apply Gopher's quality and repetition
rules, C4's and FineWeb's, each to all texts.  Gate: of every rule alone, decisions agree on 99 % of texts.  `SPLIT`
says what a word is: "english" is datatrove's own (spaCy) and our closest; with "white" both split at white space, so
that what is left is not the splitter's doing.  Time is that of a whole pass in one thread, texts in memory, for us the
fastest of `TRIES`; ours has compiled before.
"""

import gzip
import json
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.harness import PASSED, Options, Row, compared, fresh, turns

AGREE, TRIES, COPIES = 0.99, 3, 20
FEW, ALL = 12, 6                        # every how manyth text
FILES = ("web_commoncrawl_text/c4_demo.jsonl.gz", "web_quality_labels_dclm/majority_data.jsonl.gz",
         "web_quality_labels_dclm/agreement_data.jsonl.gz", "reuters21578/reuters21578.jsonl.gz")
SAMPLES, WIKIPEDIA = "web_datajuicer_samples", "web_commoncrawl_text/wiki_demo.txt.gz"
Decisions = dict[str, list[bool]]       # rule -> what it drops


def texts(data: Path, every: int) -> list[str]:
    found = []
    samples = sorted((data / SAMPLES).glob("*.jsonl*"))
    for path in [*(data / name for name in FILES), *samples, data / WIKIPEDIA]:
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rt", encoding="utf-8") as file:
            rows = [json.loads(line) for line in file] if ".jsonl" in path.name else [{"text": line} for line in file]
        found += [row.get("text") or f"{row.get('title', '')}\n{row.get('body', '')}" for row in rows]
    return [text for text in found if text.strip()][::every]


def fastest(work: Callable[[], object], tries: int = TRIES) -> float:
    seconds = []
    for _ in range(tries):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


# --- ours -----------------------------------------------------------------------------------------------------------

def ours(documents: list[str], split: str) -> dict:
    """Decisions rule by rule, and documents a second; the batch is repeated, so that it does not fit into a cache."""
    import pyarrow as pa

    from bloomery.curate.c4 import C4, LineRules
    from bloomery.curate.fineweb import FineWeb, fineweb_statistics
    from bloomery.curate.heuristics import Gopher, Heuristic, quality_statistics
    from bloomery.curate.repetition import TABLE_A1, Repetition, repetition_statistics

    shared = {"counting": "datatrove", "words": split}
    steps = {"gopher": Heuristic(quality_statistics, Gopher(**shared)),
             "repetition": Heuristic(repetition_statistics, Repetition(**shared, **TABLE_A1)),
             "c4": LineRules(C4(ends=(".", "?", "!", '"', "'"))),
             "fineweb": Heuristic(fineweb_statistics, FineWeb(words=split))}

    def batch(texts: list[str]) -> pa.RecordBatch:
        return pa.record_batch({"text": pa.array(texts, pa.large_string())})

    def sift(given: pa.RecordBatch) -> dict:
        return {name: step.examine(given) for name, step in steps.items()}

    dropped: Decisions = {}
    for name, findings in sift(batch(documents)).items():
        for rule, (low, high) in steps[name].ranges.items():
            column = findings.columns[rule]
            dropped[f"{name}.{rule}"] = ((column < low) | (column > high)).tolist()
    dropped["c4"] = [reason is not None for reason in sift(batch(documents))["c4"].reasons]
    batches = [batch(documents[at::COPIES] * COPIES) for at in range(COPIES)]
    seconds = fastest(lambda: [sift(given) for given in batches]) / COPIES
    return {"dropped": dropped, "seconds": seconds}


# --- datatrove ------------------------------------------------------------------------------------------------------

def datatrove(documents: list[str], split: str) -> dict:
    """The same of datatrove: rules one by one, then its executor with the four filters."""
    from datatrove.data import Document
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline import filters
    from datatrove.pipeline.filters import (
        c4_filters,
        fineweb_quality_filter,
        gopher_quality_filter,
        gopher_repetition_filter,
    )
    from loguru import logger

    logger.remove()
    logging.disable()
    if split == "white":
        for module in (fineweb_quality_filter, gopher_quality_filter, gopher_repetition_filter):
            module.split_into_words = lambda text, language: text.split()
    alone = rules(filters)
    dropped: Decisions = {name: [] for name in alone}
    for text in documents:                          # text by text, so that words are split once
        for name, rule in alone.items():
            verdict = decided(rule, Document(text=text, id=""))
            dropped[name].append(verdict)

    def execute() -> None:
        made = [Document(text=text, id=str(number)) for number, text in enumerate(documents)]
        every = [Forwarding(one) for one in (filters.GopherRepetitionFilter(), filters.GopherQualityFilter(),
                                             c4_filters.C4QualityFilter(), filters.FineWebQualityFilter())]
        with tempfile.TemporaryDirectory() as folder:
            LocalPipelineExecutor(pipeline=[made, *every], logging_dir=folder, skip_completed=False).run()

    return {"dropped": dropped, "seconds": fastest(execute, 1)}


class Forwarding:
    """A filter that asks about every document and passes all on, so that each filter sees all texts as they came."""

    def __init__(self, rule) -> None:                                                    # noqa: ANN001
        self.rule = rule

    def __call__(self, data, rank: int = 0, world_size: int = 1):                        # noqa: ANN001, ANN204
        for document in data:
            text = document.text
            decided(self.rule, document)
            document.text = text
            yield document


def decided(rule, document) -> bool:                                                     # noqa: ANN001
    """Whether a filter drops a document; of an empty one some cannot say, and datatrove then drops it."""
    try:
        verdict = rule.filter(document)
    except ZeroDivisionError:
        return True
    return not (verdict[0] if isinstance(verdict, tuple) else verdict)


def rules(filters) -> dict:                                                              # noqa: ANN001
    """A filter of datatrove for each rule, the others off; names as ours."""
    no_gopher = dict.fromkeys(("min_doc_words", "max_doc_words", "min_avg_word_length", "max_avg_word_length",
                               "max_symbol_word_ratio", "max_bullet_lines_ratio", "max_ellipsis_lines_ratio",
                               "max_non_alpha_words_ratio", "min_stop_words"))
    gopher = {"word_count": {"min_doc_words": 50, "max_doc_words": 100_000},
              "mean_word_length": {"min_avg_word_length": 3, "max_avg_word_length": 10},
              "symbol_ratio": {"max_symbol_word_ratio": 0.1}, "bullet_lines": {"max_bullet_lines_ratio": 0.9},
              "ellipsis_lines": {"max_ellipsis_lines_ratio": 0.3},
              "alphabetic_words": {"max_non_alpha_words_ratio": 0.8}, "stop_words": {"min_stop_words": 2}}
    none = dict.fromkeys(("dup_line_frac", "dup_para_frac", "dup_line_char_frac", "dup_para_char_frac")) | {
        "top_n_grams": (), "dup_n_grams": ()}
    repetition = {"duplicate_lines": {"dup_line_frac": 0.3}, "duplicate_paragraphs": {"dup_para_frac": 0.3},
                  "duplicate_line_characters": {"dup_line_char_frac": 0.2},
                  "duplicate_paragraph_characters": {"dup_para_char_frac": 0.2}}
    repetition |= {f"top_{n}_gram": {"top_n_grams": ((n, limit),)} for n, limit in ((2, .2), (3, .18), (4, .16))}
    repetition |= {f"duplicate_{n}_gram": {"dup_n_grams": ((n, limit),)}
                   for n, limit in zip(range(5, 11), (.15, .14, .13, .12, .11, .1))}
    inf = float("inf")
    open_ = {"line_punct_thr": 0, "short_line_thr": inf, "char_duplicates_ratio": inf, "new_line_ratio": inf}
    fineweb = {"ended_lines": {"line_punct_thr": 0.12}, "short_lines": {"short_line_thr": 0.67},
               "duplicate_characters": {"char_duplicates_ratio": 0.01}, "newlines_a_word": {"new_line_ratio": 0.3}}
    return {f"gopher.{name}": filters.GopherQualityFilter(**no_gopher | on) for name, on in gopher.items()} | {
        f"repetition.{name}": filters.GopherRepetitionFilter(**none | on) for name, on in repetition.items()} | {
        f"fineweb.{name}": filters.FineWebQualityFilter(**open_ | on) for name, on in fineweb.items()} | {
        "c4": filters.C4QualityFilter()}


# --- the comparison -------------------------------------------------------------------------------------------------

def agreement(mine: Decisions, theirs: Decisions) -> dict[str, float]:
    """The share of texts on which both sides decide alike, rule by rule."""
    return {rule: sum(a == b for a, b in zip(mine[rule], found, strict=True)) / len(found)
            for rule, found in theirs.items()}


def measure(side: str, data: Path, every: int, split: str) -> dict:
    documents = texts(data, every)
    found = SIDES[side](documents, split)
    size = sum(len(text.encode()) for text in documents)
    return found | {"documents": len(documents), "bytes": size, "rate": len(documents) / found["seconds"],
                    "bytes_a_second": size / found["seconds"]}


def run(options: Options) -> Iterator[Row]:
    missing = [name for name in FILES if not (options.data / name).is_file()]
    if missing:
        yield Row("curate", f"not run: no {missing[0]} in {options.data}")
        return
    for split in ("english", "white"):
        def side(name: str, split: str = split) -> dict:
            return fresh(options, "curate", name, str(options.data), str(FEW if options.quick else ALL), split,
                         peer=name != "ours")

        pairs = turns(lambda s=side: s("ours"), lambda s=side: s("datatrove"), options.pairs)
        mine, other = pairs[0]
        gate, shares = PASSED, {}
        if "not_run" not in other:
            shares = agreement(mine["dropped"], other["dropped"])
            low = {rule: share for rule, share in shares.items() if share < AGREE}
            gate = PASSED if not low else "failed: " + ", ".join(f"{rule} {share:.4f}" for rule, share in low.items())
        details = {"documents": mine["documents"], "megabytes_a_second": round(mine["bytes_a_second"] / 1e6, 1),
                   "agreement": {rule: round(share, 5) for rule, share in shares.items()},
                   "dropped_by_datatrove": {rule: sum(lost) for rule, lost in other.get("dropped", {}).items()}}
        yield compared(f"datatrove, {split} words", pairs, key="rate", unit="documents/s", gate=gate, floor=1.0,
                       details=details)


SIDES: dict[str, Callable[[list[str], str], dict]] = {"ours": ours, "datatrove": datatrove}

if __name__ == "__main__":
    name, folder, step, words = sys.argv[1:]
    sys.stdout.write("\n" + json.dumps(measure(name, Path(folder), int(step), words)) + "\n")
