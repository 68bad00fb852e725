"""Hold the library to the vectors of a folder: `python -m tests.vectors [FOLDER]`.

A table says how many vectors of each algorithm passed, failed or have nothing built to answer them; the last line is
`N passed, N failed`.  Exit 1 when one failed, 2 when the folder holds none.
"""

import json
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

from tests.vectors.adapters import ADAPTERS, ASKED, UNORDERED, Adapter
from tests.vectors.compare import _fix, _plain, diff
from tests.vectors.not_built import NotBuilt

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Outcome:
    """What became of one vector; `why` is the first difference, or what is not built."""

    name: str
    algorithm: str
    verdict: str            # "passed", "failed" or "not built"
    why: str = ""


def load(folder: Path) -> list[tuple[str, dict]]:
    """Every vector of a folder with its name, sorted; files without an `algorithm` are something else."""
    found = []
    for path in sorted(folder.glob("*.json")):
        vector = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(vector, dict) and "algorithm" in vector:
            found.append((path.stem, vector | {"inputs": _fix(vector["inputs"]), "expected": _fix(vector["expected"])}))
    return found


def judge(name: str, vector: dict, folder: Path, adapters: dict[str, Adapter] = ADAPTERS) -> Outcome:
    """Compare what an adapter answers with what is expected; keys that this vector does not hold are left out."""
    algorithm, expected = vector["algorithm"], vector["expected"]
    if algorithm not in adapters:
        return Outcome(name, algorithm, "not built")
    try:
        asked = ASKED[algorithm](expected) if algorithm in ASKED else {}
        got = _plain(adapters[algorithm](vector["inputs"] | asked, folder))
    except NotBuilt as reason:
        return Outcome(name, algorithm, "not built", str(reason))
    except Exception as error:                              # a crash is this vector's failure, not the run's
        return Outcome(name, algorithm, "failed", f"{type(error).__name__}: {error}".partition("\n")[0])
    compared = {key: value for key, value in got.items() if key in expected}
    if not compared:
        return Outcome(name, algorithm, "failed", f"no key of {', '.join(expected)} was answered")
    for key in UNORDERED.get(algorithm, ()):
        expected, compared = expected | {key: sorted(expected[key])}, compared | {key: sorted(compared[key])}
    differences = diff(expected, compared, vector["tolerance"]["atol"], vector["tolerance"]["rtol"])
    return Outcome(name, algorithm, "failed" if differences else "passed", "".join(differences[:1]))


def table(outcomes: list[Outcome]) -> list[str]:
    """A line an algorithm, and below it the first difference of every failure."""
    by_algorithm: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        by_algorithm[outcome.algorithm].append(outcome)
    lines = [f"{'algorithm':<32}{'passed':>8}{'failed':>8}{'not built':>11}"]
    for algorithm, group in sorted(by_algorithm.items()):
        counts = [sum(o.verdict == verdict for o in group) for verdict in ("passed", "failed", "not built")]
        lines.append("{:<32}{:>8}{:>8}{:>11}".format(algorithm, *(count or "-" for count in counts)))
        lines += [f"    {o.name}: {o.verdict}: {o.why}" for o in group if o.verdict != "passed" and o.why]
    return lines


def main(arguments: list[str]) -> int:
    folder = Path(arguments[0]) if arguments else HERE
    outcomes = [judge(name, vector, folder) for name, vector in load(folder)]
    if not outcomes:
        print(f"no vectors in {folder}", file=sys.stderr)
        return 2
    count = Counter(outcome.verdict for outcome in outcomes)
    print("\n".join(table(outcomes)))
    print(f"\n{count['not built']} not built")
    print(f"{count['passed']} passed, {count['failed']} failed")
    return int(count["failed"] > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
