"""What the numbers say, in plain words: the sentence at the top of the page, its tiles, and warnings for one stage.

Words follow the numbers and never the hope: a model that lost to the 5-gram is said to need more bits.
"""

import re

from bloomery.core.metrics import shorten
from bloomery.report.charts import Log, finite

FORGOTTEN = 1.05        # times the bits per byte it began with: beyond that the reader is warned
WINS = re.compile(r"(.+)\.win_rate_over_(.+)(?<!_low)(?<!_high)(?<!_ties)")
RIVALS = (("ngram5_bpb", "a 5-gram model"), ("xz_bpb", "xz"), ("zstd_bpb", "zstd"))


def find(metrics: dict[str, object], name: str) -> float | None:
    """The number called `name` of any model (`base.val_bpb`); of several models, `base`, then the first."""
    found = [key for key in metrics if key.rpartition(".")[2] == name and finite(metrics[key])]
    found.sort(key=lambda key: not key.startswith("base."))
    return metrics[found[0]] if found else None


def gains(metrics: dict[str, object], name: str) -> list[tuple[float, float]]:
    """(before, after) of a metric for each model trained from another: `<model>.<name>_<before>`, `<model>.<name>`."""
    models = {key.partition(".")[0] for key in metrics}
    found = []
    for key, before in metrics.items():
        model, _, rest = key.partition(".")
        after = metrics.get(f"{model}.{name}")
        if rest.startswith(f"{name}_") and rest.removeprefix(f"{name}_") in models and finite(before) and finite(after):
            found.append((before, after))
    return found


def change(new: float, old: float) -> str:
    """`21 % fewer`, `3 % more`, `as many`."""
    share = round(100 * abs(1 - new / old)) if old else 0
    return "about as many" if share == 0 else f"{share} % {'fewer' if new < old else 'more'}"


def signed(value: float, form: str = ".4g") -> str:
    """A number with a true minus sign."""
    return format(value, form).replace("-", "−")


def plural(count: int, word: str) -> str:
    return f"{count:,} {word}{'s' * (count != 1)}"


def listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def held_out(metrics: dict[str, object]) -> tuple[str, dict] | None:
    """Bits per byte of held-out text beside what other compressors need for the same bytes."""
    bits = find(metrics, "val_bpb")
    if bits is None:
        return None
    rivals = [(name, find(metrics, key)) for key, name in RIVALS]
    rivals = [(name, value) for name, value in rivals if value is not None]
    words = f"on text it has never seen the model needs {bits:.3f} bits per byte"
    if rivals:
        words += ", " + listed([f"{change(bits, value)} "
                                f"{'as' if change(bits, value).startswith('about') else 'than'} {name}"
                                for name, value in rivals[:2]])
    bars = [("this model", bits, f"{bits:.3f}"), *((name.removeprefix("a "), v, f"{v:.3f}") for name, v in rivals)]
    return words, tile("Held-out text", f"{bits:.3f}", "bits per byte", bars, "fewer is better")


def fine_tuning(metrics: dict[str, object]) -> tuple[str, dict] | None:
    """How much likelier the expected answers became, the change of their negative log-likelihood, and at what cost."""
    before, after = next(iter(gains(metrics, "answer_nll")), (0.0, 0.0))
    if before <= 0:
        return None
    percent = 100 * (after / before - 1)
    verb = "cut" if percent < 0 else "raised"
    bars = [("before", before, f"{before:.3f}"), ("after", after, f"{after:.3f}")]
    known, now = next(iter(gains(metrics, "val_bpb")), (0.0, 0.0))
    cost = f", held-out text then needs {change(now, known)} bits" if known > 0 else ""
    return (f"fine-tuning {verb} the loss on expected answers by {abs(percent):.0f} %{cost}",
            tile("Fine-tuning", f"{signed(percent, '+.1f')} %", "loss on expected answers", bars,
                 "nats per token, less is better", first=1))


def preferences(metrics: dict[str, object]) -> tuple[str, dict] | None:
    """Share of held-out pairs whose chosen answer the model ranks first, before and after preference training."""
    before, after = next(reversed(gains(metrics, "preference_accuracy")), (None, find(metrics, "preference_accuracy")))
    if after is None:
        return None
    words, bars = f"it ranks {100 * after:.0f} % of held-out answer pairs right", []
    if before is not None:
        old, new = round(100 * before), round(100 * after)
        moved = "left" if new == old else "raised" if new > old else "lowered"
        words = f"preference training {moved} the share of answer pairs it ranks right "
        words += f"at {new} %" if moved == "left" else f"from {old} % to {new} %"
        bars = [("before", before, f"{100 * before:.1f} %")]
    bars = [*bars, ("after", after, f"{100 * after:.1f} %")]
    return words, tile("Preferences", f"{100 * after:.0f} %", "of pairs ranked right", bars, "a coin gets 50 %",
                       first=len(bars) - 1, most=1.0)


def answers(metrics: dict[str, object]) -> tuple[str, dict] | None:
    """Share of held-out questions answered exactly as expected, of the model that gained most."""
    before, after = max(gains(metrics, "exact_match"), key=lambda gain: gain[1] - gain[0], default=(None, None))
    if after is None:
        return None
    bars = [("before", before, f"{100 * before:.1f} %"), ("after", after, f"{100 * after:.1f} %")]
    return (f"exact answers went from {100 * before:.1f} % to {100 * after:.1f} %",
            tile("Answers", f"{100 * after:.1f} %", "exactly right", bars, "held-out questions", first=1, most=1.0))


def wins(metrics: dict[str, object]) -> tuple[str, dict] | None:
    """How often a judge prefers a model's answers to those of the one before, of the model that wins most."""
    rates = {key: metrics[key] for key in metrics if WINS.fullmatch(key) and finite(metrics[key])}
    if not rates:
        return None
    best = max(rates, key=rates.get)
    (name, before), rate = WINS.fullmatch(best).groups(), rates[best]
    low, high = (100 * metrics.get(f"{best}_{end}", rate) for end in ("low", "high"))
    return (f"{name}'s answers are preferred to {before}'s in {100 * rate:.0f} % of cases ({low:.0f} to {high:.0f} %)",
            tile("Wins", f"{100 * rate:.0f} %", f"preferred to {before}", [(name, rate, f"{100 * rate:.1f} %")],
                 f"a coin gets 50 %; 95 % interval {low:.0f} to {high:.0f} %", most=1.0))


def tile(label: str, value: str, unit: str, bars: list[tuple[str, float, str]], note: str, *, first: int = 0,
         most: float = 0.0) -> dict:
    """A headline number and, below it, bars drawn from zero; `first` is the bar in the accent colour."""
    most = max([most, *(value for _, value, _ in bars)], default=0) or 1
    return {"label": label, "value": value, "unit": unit, "note": note,
            "bars": [{"name": name, "share": round(max(0.0, v / most), 4), "shown": shown, "first": i == first}
                     for i, (name, v, shown) in enumerate(bars)]}


def headline(metrics: dict[str, object], kept: tuple[int, int] | None, count: int,
             seconds: float) -> tuple[str, list[dict]]:
    """One sentence and up to three tiles; where nothing was evaluated, what was read and how long it took."""
    found = [f for f in (held_out(metrics), fine_tuning(metrics), preferences(metrics), answers(metrics),
                         wins(metrics)) if f][:3]
    words, tiles = [w for w, _ in found], [t for _, t in found]
    if kept and len(tiles) < 3:
        documents, read = kept
        share = f"{100 * documents / read:.0f} % of {read:,}" if read else "nothing was read"
        tiles.append(tile("Curation", shorten(documents), "documents kept", [], share))
        if not words:
            words.append(f"{documents:,} of {read:,} documents were kept")
    if len(tiles) < 3:
        tiles.append(tile("Work", duration(seconds), "", [], plural(count, "stage")))
    if not words:
        words.append(f"{plural(count, 'stage')} finished in {duration(seconds)}; nothing was evaluated yet")
    sentence = words[0] if len(words) == 1 else "; ".join([", ".join(words[:1]), " and ".join(words[1:])])
    return sentence[0].upper() + sentence[1:] + ".", tiles


def duration(seconds: float) -> str:
    """0.4 s, 12 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def ends(log: Log, key: str) -> tuple[float, float] | None:
    """Mean of the first and of the last tenth of a curve: where it began and where it ended, without its noise."""
    values = [value for _, value in log.values(key) if value is not None]
    part = max(1, len(values) // 10)
    return (sum(values[:part]) / part, sum(values[-part:]) / part) if len(values) > 1 else None


def forgetting(log: Log) -> list[tuple[str, bool]]:
    """What became of the text the model was trained on before, where it was measured."""
    bits = [value for _, value in log.values("base_bpb") if value is not None]
    if len(bits) < 2:
        return []
    first, last = bits[0], bits[-1]
    told = f"the text it was trained on before needs {last:.3f} bits per byte, {first:.3f} at the start"
    if last <= first:
        return [(f"Nothing was forgotten: {told}.", False)]
    return [(f"Something was forgotten: {told} ({change(last, first)}).", last > FORGOTTEN * first)]


def training_words(log: Log) -> list[dict]:
    """Sentences about one training stage, each `{"words", "warns"}`."""
    said = []
    loss = ends(log, "loss") or ends(log, "val_loss")
    if loss:
        verb = "fell" if loss[1] < loss[0] else "rose" if loss[1] > loss[0] else "stayed"
        words = f"The loss {verb} from {loss[0]:.3f} to {loss[1]:.3f} in {log.rows[-1]['step']:,} steps."
        said.append((words, loss[1] > loss[0]))
    said += forgetting(log)
    if log.resumes:
        times = "once" if len(log.resumes) == 1 else f"{len(log.resumes)} times"
        said.append((f"The run was resumed {times}, at the dotted line{'s' * (len(log.resumes) > 1)}.", False))
    margin, chosen = ends(log, "rewards/margins"), ends(log, "logps/chosen")
    if margin and chosen and margin[1] > margin[0]:
        grew = f"The margin grew from {signed(margin[0])} to {signed(margin[1])}"
        told = f"the chosen answers' log-probability went from {signed(chosen[0])} to {signed(chosen[1])}"
        if chosen[1] < chosen[0]:
            trap = (f"{grew} while {told}: chosen answers became less likely too, only less so than rejected ones. "
                    "Read some answers before trusting the margin; a larger beta, or a loss on the chosen answers, "
                    "holds them up.")
            said.append((trap, True))
        else:
            said.append((f"{grew} and {told}: chosen answers became likelier, as they should.", False))
    lost = sum(value is None for key in log.names() for _, value in log.values(key))
    if lost:
        verb = "is" if lost == 1 else "are"
        said.append((f"{plural(lost, 'logged value')} {verb} not finite; the curves have gaps there.", True))
    return [{"words": words, "warns": warns} for words, warns in said]
