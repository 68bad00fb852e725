"""The report cards of reward models: numbers of `card.json` placed for the page.

A reliability diagram shows how sure the model was (across) and how often it was right (up); on the diagonal both are
the same.  Placed here and drawn as SVG, so that it needs no script; every number stands in `report.json` too.
"""

from pathlib import Path

from bloomery.report import findings
from bloomery.report.charts import rounded
from bloomery.report.samples import read_json

WIDTH, HEIGHT = 320, 220        # of a diagram, in units of its own
LARGEST = 9.0                   # radius of a dot that holds all pairs
BUCKETS = (("by_confidence", "How sure it is", "quarters of the pairs, by how far apart their scores are"),
           ("by_margin", "How clear the case was", "by how much better people found the winner"),
           ("by_length", "Length", "a reward that counts words is right in one of these alone"),
           ("by_kind", "Kind", "where the labels come from"))


def card(folder: Path) -> dict:
    """One stage's card as the page shows it; empty where the stage made none."""
    found = read_json(folder / "card.json")
    if not found or "models" not in found:                      # there are cards of tasks too
        return {}
    rows = list(found["models"].items())
    if found["ensemble"]:
        rows.append((f"ensemble ({found['ensemble']['how']})", found["ensemble"]))
    name, best = rows[-1] if found["ensemble"] else rows[0]
    return {"words": [sentence(words) for words in found["words"]],
            "rows": [row(name, marks) for name, marks in rows], "name": name if len(rows) > 1 else "",
            "diagram": diagram(best), "histogram": histogram(best["histogram"]),
            "buckets": [bucket(title, best[key], note) for key, title, note in BUCKETS if best[key]]}


def sentence(words: str) -> str:
    """A capital at its beginning, unless it begins with the name of a model, and an end."""
    begins = words.partition(" ")[0] in ("it", "the")
    return (words[0].upper() + words[1:] if begins else words) + "."


def row(name: str, marks: dict) -> dict:
    """A line of the table of models."""
    low, high = marks["interval"]
    names = ("nll", "brier", "ece", "ece_scaled", "temperature", "length_correlation")
    return {"name": name, "accuracy": percent(marks["accuracy"]), "sort": marks["accuracy"],
            "interval": f"{100 * low:.1f} to {percent(high)}",
            "numbers": [rounded(marks[key]) if key in marks else None for key in names]}


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def diagram(marks: dict, *, least: float = 0.5, of: str = "pairs") -> dict:
    """Dots of the reliability diagram as they are placed, before and after the temperature, from confidence `least` on.
    """
    series = [("as it is", "raw", marks["reliability"]), ("at its temperature", "scaled",
                                                          marks.get("reliability_scaled", []))]
    return {"width": WIDTH, "height": HEIGHT, "least": least, "level": up(least),
            "series": [{"name": name, "look": look, "dots": [dot(b, marks["count"], least, of) for b in bins]}
                       for name, look, bins in series if bins]}


def dot(b: dict, total: int, least: float, of: str) -> dict:
    """Where a bin stands; its area says how many it holds."""
    return {"x": round((b["confidence"] - least) / (1 - least) * WIDTH, 1), "y": up(b["right"]),
            "r": round(max(1.5, LARGEST * (b["count"] / total) ** 0.5), 1),
            "words": f"{b['count']} {of}: sure to {percent(b['confidence'])}, right in {percent(b['right'])}"}


def up(share: float) -> float:
    return round(HEIGHT * (1 - share), 1)


def histogram(found: dict) -> dict:
    """Bars of the rewards of winners, upward, and of losers, downward, from one line."""
    if not found:
        return {}
    most = max(*found["won"], *found["lost"], 1)
    step, half = WIDTH / len(found["won"]), HEIGHT / 2

    def bars(counts: list[int], *, above: bool) -> list[dict]:
        sizes = [half * count / most for count in counts]
        return [{"x": round(place * step, 1), "y": round(half - size if above else half, 1), "height": round(size, 1)}
                for place, size in enumerate(sizes)]

    zero = -found["low"] / (found["high"] - found["low"])
    return {"width": WIDTH, "height": HEIGHT, "step": round(step - 1, 1), "won": bars(found["won"], above=True),
            "lost": bars(found["lost"], above=False), "low": findings.signed(found["low"], ".2f"),
            "high": findings.signed(found["high"], ".2f"),
            "zero": round(WIDTH * zero, 1) if 0.08 < zero < 0.92 else None}


def bucket(title: str, rows: list[dict], note: str) -> dict:
    """Accuracies as dots on a line from 0 to 1, each within its interval."""
    dots = [{"name": each["name"], "at": rounded(100 * each["accuracy"]), "low": rounded(100 * each["interval"][0]),
             "wide": rounded(100 * (each["interval"][1] - each["interval"][0])), "shown": percent(each["accuracy"]),
             "count": findings.plural(each["count"], "pair")} for each in rows]
    return {"title": title, "note": note, "dots": dots}
