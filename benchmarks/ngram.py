"""Case `ngram`: scoring words with a 3-gram model of WikiText-2, against kenlm.

    python -m benchmarks.ngram SIDE DATA MODEL

runs one side in this process and prints one JSON line.  Both sides read the same ARPA file, which ours has written, and
score the test text from its words to one number; reading is off the clock.  Gate: the perplexities agree to 1e-5.
A side's time is its fastest of three.  The last row is how well Norvig's test set is corrected: nothing is compared
there.
"""

import gzip
import json
import math
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.harness import PASSED, Options, Row, compared, fresh, turns

CLOSE, TRIES = 1e-5, 3
WIKITEXT, SPELLING = Path("wikitext-2"), Path("spelling")
UNKNOWN = "rare-word"                   # in place of WikiText's own <unk>, which kenlm has another use for


def sentences(data: Path, part: str) -> list[list[str]]:
    with gzip.open(data / WIKITEXT / f"wiki.{part}.tokens.gz", "rt", encoding="utf-8") as file:
        return [found for line in file if (found := line.replace("<unk>", UNKNOWN).split())]


def count(data: Path, path: Path) -> None:
    """Write the model that both sides read."""
    from bloomery.classic import arpa
    from bloomery.classic.lexicon import START, Lexicon
    from bloomery.classic.ngram import Ngram
    from bloomery.classic.smoothing import modified_kneser_ney

    lexicon, ids = Lexicon.counted(sentences(data, "train"))
    arpa.write(Ngram(3, len(lexicon), start=START, smoothing=modified_kneser_ney()).fit(ids), lexicon.words, path)


def ours(path: Path) -> Callable[[list[list[str]]], float]:
    from bloomery.classic import arpa

    model, lexicon = arpa.read(path)
    for order in model.orders:
        _ = order.grams.slots           # the tables that kenlm makes while it reads
    return lambda asked: model.nats([lexicon.ids(sentence) for sentence in asked])


def theirs(path: Path) -> Callable[[list[list[str]]], float]:
    import kenlm

    model = kenlm.Model(str(path))
    return lambda asked: -math.log(10) * sum(model.score(" ".join(sentence)) for sentence in asked)


SIDES = {"ours": ours, "kenlm": theirs}


def measure(side: str, data: Path, path: Path) -> dict:
    """Words a second with their ends of sentences, in the fastest of three tries, and the perplexity."""
    asked, score, tries = sentences(data, "test"), SIDES[side](path), []
    words = sum(len(sentence) + 1 for sentence in asked)
    for _ in range(TRIES):
        start = time.perf_counter()
        nats = score(asked)
        tries.append(time.perf_counter() - start)
    return {"rate": words / min(tries), "words": words, "perplexity": math.exp(nats / words)}


def corrected(data: Path) -> dict[str, float]:
    """Norvig's 270 misspellings, by the words of his corpus: the share that is right, and words a second."""
    from bloomery.classic.spelling import Speller, words_of

    with gzip.open(data / SPELLING / "big.txt.gz", "rt", encoding="utf-8", errors="replace") as file:
        speller = Speller(Counter(words_of(file.read())))
    rows = (line.partition(":") for line in (data / SPELLING / "spell-testset1.txt").read_text("utf-8").splitlines())
    pairs = [(meant.strip(), typed) for meant, _, row in rows for typed in row.split()]
    speller.correct("frist")                                # makes its index
    start = time.perf_counter()
    right = sum(speller.correct(typed) == meant for meant, typed in pairs)
    seconds = time.perf_counter() - start
    return {"right": round(right / len(pairs), 4), "words_per_second": round(len(pairs) / seconds)}


def equal_perplexity(a: dict, b: dict) -> str:
    difference = abs(a["perplexity"] / b["perplexity"] - 1)
    return PASSED if difference <= CLOSE else f"failed: perplexities differ by {difference:.1e} of them"


def run(options: Options) -> Iterator[Row]:
    if not (options.data / WIKITEXT).is_dir() or not (options.data / SPELLING).is_dir():
        yield Row("ngram", f"not run: no {WIKITEXT} or no {SPELLING} in {options.data}")
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.arpa"
        count(options.data, path)

        def side(name: str) -> dict:
            return fresh(options, "ngram", name, str(options.data), str(path), peer=name != "ours")

        pairs = turns(lambda: side("ours"), lambda: side("kenlm"), 1 if options.quick else options.pairs)
        missing, mine = any("not_run" in other for _, other in pairs), pairs[0][0]
        yield compared("kenlm, 3-grams of WikiText-2", pairs, key="rate", unit="words/s",
                       gate=PASSED if missing else equal_perplexity(*pairs[0]),
                       details={"words": mine["words"], "perplexity": round(mine["perplexity"], 4)})
    yield Row("spelling", details=corrected(options.data))


if __name__ == "__main__":
    name, folder, model = sys.argv[1:]
    sys.stdout.write(json.dumps(measure(name, Path(folder), Path(model))) + "\n")
