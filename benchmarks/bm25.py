"""Case `bm25`: making an index and asking it, against bm25s with its default backend and with numba.

    python -m benchmarks.bm25 SIDE DATA

runs one side in this process and prints one JSON line.  Texts are Reuters-21578, repeated for a larger row, split into
words once and the same for both sides, off the clock; queries are the first eight words of every fortieth text.  Gate:
the ten best scores of every query agree to 1e-5, Lucene's variant.  A side's time is its fastest of three.  The last
row is how well Cranfield's 225 questions are answered by TF-IDF, BM25 and both fused: nothing is compared there.
"""

import gzip
import json
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks.harness import PASSED, Options, Row, compared, fresh, turns
from bloomery.classic.scores import ndcg
from bloomery.classic.words import words

CLOSE = 1e-5
EVERY, WORDS, FOUND, TRIES = 40, 8, 10, 3
REUTERS, CRANFIELD = Path("reuters21578") / "reuters21578.jsonl.gz", Path("cranfield")
RELEVANT = {"1", "2", "3", "4"}         # codes of its judgements; -1, once a question, is in no key to them
Searched = tuple[float, float, list[list[float]]]


def ours(documents: list[list[str]], queries: list[list[str]]) -> Searched:
    from bloomery.classic.bm25 import build

    start = time.perf_counter()
    index = build(documents)
    made = time.perf_counter()
    scores = [[score for _, score in index.search(query, FOUND)] for query in queries]
    return made - start, time.perf_counter() - made, scores


def theirs(documents: list[list[str]], queries: list[list[str]], backend: str = "numpy") -> Searched:
    import bm25s

    start = time.perf_counter()
    index = bm25s.BM25(method="lucene", backend=backend)
    index.index(documents, show_progress=False)
    made = time.perf_counter()
    found = index.retrieve(queries, k=FOUND, show_progress=False)
    return made - start, time.perf_counter() - made, found.scores.tolist()


SIDES: dict[str, Callable[[list[list[str]], list[list[str]]], Searched]] = {
    "ours": ours, "bm25s": theirs, "bm25s, numba": lambda *given: theirs(*given, backend="numba")}


def reuters(data: Path, times: int = 1) -> tuple[list[list[str]], list[list[str]]]:
    """Texts and queries as words."""
    with gzip.open(data / REUTERS, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    documents = [words(f"{row['title']} {row['body']}") for row in rows] * times
    return documents, [document[:WORDS] for document in documents[::EVERY * times] if len(document) >= WORDS]


def measure(side: str, data: Path, times: int) -> dict:
    """Seconds of making and of asking, in the fastest of three tries; the first compiles what is compiled."""
    documents, queries = reuters(data, times)
    tries = [SIDES[side](documents, queries) for _ in range(TRIES)]
    made, asked, scores = min(tries, key=lambda one: one[0] + one[1])
    return {"seconds": made + asked, "index": made, "search": asked, "documents": len(documents),
            "terms": sum(map(len, documents)), "queries": len(queries), "scores": scores}


def equal_scores(a: dict, b: dict) -> str:
    """Scores of a rank are those of both sides, whoever stands there."""
    worst = max((abs(x - y) for mine, theirs in zip(a["scores"], b["scores"], strict=True)
                 for x, y in zip(mine, theirs)), default=0)
    return PASSED if worst <= CLOSE else f"failed: scores differ by {worst:.1e}, more than {CLOSE:.0e}"


def cranfield(data: Path) -> tuple[list[str], list[str], list[set[int]]]:
    """Titles with abstracts, questions, and the places of the texts that answer each."""
    def records(text: str) -> list[dict[str, str]]:
        return [dict(re.findall(r"^\.([TABW])\n(.*?)(?=^\.[TABW]\n|\Z)", record, re.MULTILINE | re.DOTALL))
                for record in re.split(r"^\.I ", text, flags=re.MULTILINE)[1:]]

    folder = data / CRANFIELD
    with gzip.open(folder / "cran.all.1400.gz", "rt", encoding="utf-8") as file:
        texts = [f"{record['T']} {record['W']}".strip() for record in records(file.read())]
    questions = [record["W"] for record in records((folder / "cran.qry").read_text(encoding="utf-8"))]
    relevant: list[set[int]] = [set() for _ in questions]
    for line in (folder / "cranqrel").read_text(encoding="utf-8").splitlines():
        question, text, code = line.split()
        if code in RELEVANT:
            relevant[int(question) - 1].add(int(text) - 1)
    return texts, questions, relevant


def answered(data: Path, ways: Sequence[str] = ("tfidf", "bm25", "rrf")) -> dict[str, float]:
    """Mean nDCG@10 of Cranfield's questions by each way of searching, with the defaults of `bloomery text search`."""
    from bloomery.searching import collect

    texts, questions, relevant = cranfield(data)
    found = collect(texts)
    return {way: statistics.fmean(ndcg([place for place, _ in found.search(question, by=way)], wanted, 10)
                                  for question, wanted in zip(questions, relevant, strict=True)) for way in ways}


def run(options: Options) -> Iterator[Row]:
    if not (options.data / REUTERS).is_file() or not (options.data / CRANFIELD).is_dir():
        yield Row("bm25", f"not run: no {REUTERS} or no {CRANFIELD} in {options.data}")
        return
    for times in (1,) if options.quick else (1, 5):
        for peer in ("bm25s", "bm25s, numba"):
            def side(name: str, times: int = times) -> dict:
                return fresh(options, "bm25", name, str(options.data), str(times), peer=name != "ours")

            pairs = turns(lambda s=side: s("ours"), lambda s=side, n=peer: s(n), options.pairs)
            missing = any("not_run" in other for _, other in pairs)
            mine, other = pairs[0]
            details = {"documents": mine["documents"], "terms": mine["terms"], "queries": mine["queries"]} | \
                ({} if missing else {f"times_faster_{part}": round(statistics.median(
                    b[part] / a[part] for a, b in pairs), 2) for part in ("index", "search")})
            yield compared(f"{peer}, {mine['documents'] // 1000}k texts", pairs, key="seconds", unit="s", less=True,
                           gate=PASSED if missing else equal_scores(mine, other), details=details)
    yield Row("cranfield", details={f"ndcg@10 {way}": round(value, 4)
                                    for way, value in answered(options.data).items()})


if __name__ == "__main__":
    name, folder, *repeated = sys.argv[1:]
    sys.stdout.write(json.dumps(measure(name, Path(folder), int(repeated[0]) if repeated else 1)) + "\n")
