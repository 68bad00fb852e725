"""The report card of reward models, and the calibrate stage that writes one: how often they are right on held-out
pairs, how sure they may be, what misleads them, and whether several together do better.

Temperatures are honest: the pairs are halved by their questions, and each half is judged with the temperature that the
other half likes best.  Members of an ensemble are first brought to mean 0 and deviation 1 on one common set of answers
(Coste et al. 2024).  `card.json` holds all of it; `report` makes a page of it.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from bloomery.align.calibration import accuracy, brier, correlation, ece, nll, reliability, temperature
from bloomery.align.rankings import Ranked, misfit, rendered
from bloomery.core.artifacts import write_atomic
from bloomery.core.config import Input, Settings
from bloomery.core.errors import ConfigError, InputError
from bloomery.core.files import Quarantine
from bloomery.core.intervals import wilson
from bloomery.core.metrics import say
from bloomery.core.records import Preference, Ranking, unit_hash
from bloomery.data.formats import preferences, rankings
from bloomery.generate.best_of import combine
from bloomery.generate.scoring import RewardModel, score_completions
from bloomery.losses.ranking import ordered_pairs
from bloomery.model.scalar import ScalarModel
from bloomery.train.precision import Device, Precision, machine

CARD = "card.json"
QUARTERS = ("least sure", "less sure", "more sure", "surest")
ALIKE = 0.1                     # two answers whose lengths differ by less than this share are about as long
BIASED = 0.1                    # more or fewer longer answers preferred than people did: worth a sentence
CELLS = 24                      # of the histogram of rewards


class Config(Settings):
    """Measure reward models on held-out pairs."""

    models: dict[str, Input] = Field(min_length=1, description="name = folder of a reward model; several are also "
                                                               "measured as an ensemble")
    data: Input | None = Field(None, description="held-out preferences, such as a reward stage's heldout.jsonl")
    rankings: Input | None = Field(None, description="held-out rankings, beside data or in its place")
    columns: dict[str, str] = Field({}, description="their column = ours, where they differ: question = \"prompt\"")
    normalise: Input | None = Field(None, description="preferences on whose answers members are brought to one scale; "
                                                      "default: those they are measured on")
    combine: Literal["mean", "min", "lower", "variance"] = Field(
        "mean", description="how several rewards become one; lower, variance: the mean less their deviation, variance")
    k: float = Field(0.5, ge=0, description="how many deviations or variances are taken off")
    micro_tokens: int = Field(8192, gt=0, description="tokens held in memory at once")
    precision: Precision = Field("fp32", description="bf16, fp32, or auto")
    device: Device = "auto"


@dataclass(frozen=True)
class Pairs:
    """P pairs of the A answers to held-out prompts, the winner first, and what is known of them."""

    index: Tensor           # (P, 2) int64 which answers
    lengths: Tensor         # (A,) float64 tokens
    kinds: tuple[str, ...]
    margins: Tensor         # (P,) float64 by how much people found the winner better, 0 where nobody said
    half: Tensor            # (P,) bool by a hash of the question


def run(config: Config, out: Path) -> dict:
    """Score the pairs with every model, and write the card."""
    if not (config.data or config.rankings):
        raise ConfigError("nothing to measure on", where="calibrate", hint="give data, or rankings")
    compute, device = machine(config)
    models = {name: RewardModel(Path(folder), compute=compute, device=device)
              for name, folder in config.models.items()}
    quarantine = Quarantine()
    rows = ranked_rows(config.data, config.rankings, quarantine, config.columns)
    common = preferences(config.normalise, quarantine, columns=config.columns) if config.normalise else rows
    quarantine.write(out)
    shown, dropped = fitting(rows, models, where=config.data or config.rankings)
    normal = fitting(common, models, where=config.normalise)[0] if config.normalise else shown
    scores = {name: answer_scores(model.model, shown[name], config.micro_tokens) for name, model in models.items()}
    on = {name: answer_scores(model.model, normal[name], config.micro_tokens) if config.normalise else scores[name]
          for name, model in models.items()}
    card = report_card(scores, pairs_of(next(iter(shown.values()))), normal=on, how=config.combine, k=config.k)
    write_atomic(out / CARD, json.dumps(card, indent=1))
    for line in card["words"]:
        say(f"  calibrate: {line}")
    return {"dropped": dropped, "quarantined": len(quarantine), **headline(card)}


def ranked_rows(data: str | None, ranked: str | None, quarantine: Quarantine,
                columns: dict[str, str]) -> list[Preference | Ranking]:
    """Preferences and rankings as one list."""
    return [*(preferences(data, quarantine, columns=columns) if data else ()),
            *(rankings(ranked, quarantine, columns=columns) if ranked else ())]


def fitting(rows: Sequence[Preference | Ranking], models: dict[str, RewardModel], *,
            where: str) -> tuple[dict[str, list[Ranked]], int]:
    """The rows that every model can read, as ids of each, and how many were dropped."""
    made = [[rendered(row, model.renderer) for row in rows] for model in models.values()]
    contexts = [model.model.config.context for model in models.values()]
    kept = [i for i in range(len(rows))
            if not any(misfit(own[i], context) for own, context in zip(made, contexts, strict=True))]
    if not kept:
        raise InputError("no pair can be measured", where=where,
                         why=f"all {len(rows)} are longer than the models' context, or have equal answers")
    return {name: [own[i] for i in kept] for name, own in zip(models, made, strict=True)}, len(rows) - len(kept)


def answer_scores(model: ScalarModel, groups: Sequence[Ranked], micro_tokens: int) -> Tensor:
    """The scores of all answers, prompt after prompt, (A,) float64."""
    found = score_completions(model, [group.prompt for group in groups], [group.answers for group in groups],
                              micro_tokens=micro_tokens)
    return torch.tensor([score for scores in found for score in scores], dtype=torch.float64)


def pairs_of(groups: Sequence[Ranked]) -> Pairs:
    """Every two answers one of which was preferred; what half of the votes were for is a tie and left out."""
    index, about, first = [], [], 0
    for group in groups:
        for i, j in ordered_pairs(group.ranks) if group.share != 0.5 else ():
            index.append((first + i, first + j) if group.share > 0.5 else (first + j, first + i))
            about.append((group.kind, group.margin, unit_hash(group.question, "half") < 0.5))
        first += len(group.answers)
    if not index:
        raise InputError("no pair can be measured", why=f"all {len(groups)} are ties")
    kinds, margins, half = zip(*about, strict=True)
    lengths = torch.tensor([float(len(ids)) for group in groups for ids in group.answers], dtype=torch.float64)
    return Pairs(torch.tensor(index), lengths, kinds, torch.tensor(margins, dtype=torch.float64), torch.tensor(half))


# --- marks --------------------------------------------------------------------------------------------------------

def report_card(scores: dict[str, Tensor], pairs: Pairs, *, normal: dict[str, Tensor] | None = None,
                how: str = "mean", k: float = 0.5) -> dict:
    """Marks of every model and, of several, of their ensemble, from scores (A,) of each; in words first."""
    models = {name: marks(own, pairs) for name, own in scores.items()}
    card = {"pairs": len(pairs.index), "models": models, "ensemble": {}}
    if len(scores) > 1:
        scales = {name: ((normal or scores)[name].mean(), (normal or scores)[name].std(correction=0))
                  for name in scores}
        if dead := [name for name, (_, deviation) in scales.items() if not deviation]:
            raise InputError("a reward cannot be standardised", where=f"models.{dead[0]}", why="its scores are equal")
        alike = [(scores[name] - mean) / deviation for name, (mean, deviation) in scales.items()]
        together = torch.tensor(combine([own.tolist() for own in alike], how, k), dtype=torch.float64)
        differences = torch.stack([own[pairs.index[:, 0]] - own[pairs.index[:, 1]] for own in alike])    # (models, P)
        spread, right = differences.std(0, correction=0), difference(together, pairs) > 0
        card["ensemble"] = {"how": how, "k": k, **marks(together, pairs),
                            "members_accuracy": sum(m["accuracy"] for m in models.values()) / len(models),
                            "agreement": float(((differences > 0).all(0) | (differences <= 0).all(0)).double().mean()),
                            "disagreement_right": mean(spread[right]), "disagreement_wrong": mean(spread[~right])}
    return card | {"words": words(card)}


def marks(scores: Tensor, pairs: Pairs) -> dict:
    """Everything that is measured of one reward."""
    d, sizes = difference(scores, pairs), pairs.lengths[pairs.index]                     # (P,), (P, 2)
    longer = sizes[:, 0] > sizes[:, 1]
    unequal = sizes[:, 0] != sizes[:, 1]
    found = {**share(d), "margin": float(d.mean()), "nll": nll(d), "brier": brier(d), "ece": ece(d),
             "mean_reward": float(scores.mean()), "min_reward": float(scores.min()),
             "max_reward": float(scores.max()), "deviation": float(scores.std(correction=0)),
             "temperature": temperature(d), "reliability": [asdict(b) for b in reliability(d) if b.count],
             "length_correlation": correlation(scores, pairs.lengths),
             "length_difference_correlation": correlation(d, sizes[:, 0] - sizes[:, 1]),
             "longer_won": mean(longer[unequal]), "longer_preferred": mean((longer == (d > 0))[unequal]),
             "by_confidence": quarters(d), "by_length": by_length(d, sizes), "by_kind": by_kind(d, pairs.kinds),
             "by_margin": by_margin(d, pairs.margins), "histogram": histogram(scores, pairs)}
    if 0 < int(pairs.half.sum()) < len(d):
        cold = torch.where(pairs.half, temperature(d[~pairs.half]), temperature(d[pairs.half]))
        found |= {"nll_scaled": nll(d / cold), "brier_scaled": brier(d / cold), "ece_scaled": ece(d / cold),
                  "reliability_scaled": [asdict(b) for b in reliability(d / cold) if b.count]}
    return found


def difference(scores: Tensor, pairs: Pairs) -> Tensor:
    return scores[pairs.index[:, 0]] - scores[pairs.index[:, 1]]


def mean(values: Tensor) -> float | None:
    """None where there is nothing."""
    return float(values.double().mean()) if len(values) else None


def share(d: Tensor) -> dict:
    """How many pairs, the share ranked right, and Wilson's interval of it."""
    return {"count": len(d), "accuracy": accuracy(d), "interval": wilson(int((d > 0).sum()), len(d))}


def buckets(d: Tensor, named: dict[str, Tensor]) -> list[dict]:
    return [{"name": name, **share(d[rows])} for name, rows in named.items() if bool(rows.any())]


def quarters(d: Tensor) -> list[dict]:
    """By how far apart the model finds two answers."""
    order = torch.empty(len(d), dtype=torch.long)
    order[d.abs().argsort(stable=True)] = torch.arange(len(d)) * len(QUARTERS) // len(d)
    return buckets(d, {name: order == i for i, name in enumerate(QUARTERS)})


def by_length(d: Tensor, sizes: Tensor) -> list[dict]:
    """By how much longer the winner is: a reward that only counts tokens is right in one of these alone."""
    ratio = (sizes[:, 0] / sizes[:, 1]).log()
    return buckets(d, {"winner is shorter": ratio < -ALIKE, "about as long": ratio.abs() <= ALIKE,
                       "winner is longer": ratio > ALIKE})


def by_kind(d: Tensor, kinds: Sequence[str]) -> list[dict]:
    names = sorted(set(kinds))
    return buckets(d, {name or "other": torch.tensor([k == name for k in kinds]) for name in names}) \
        if len(names) > 1 else []


def by_margin(d: Tensor, margins: Tensor) -> list[dict]:
    """By how much better people found the winner, where they said."""
    values = margins.unique().tolist()
    if len(values) > len(QUARTERS):
        edges = margins.quantile(torch.tensor([0.25, 0.5, 0.75], dtype=margins.dtype)).unique()
        place = torch.bucketize(margins, edges)
        return buckets(d, {f"{float(margins[place == i].min()):.3g} to {float(margins[place == i].max()):.3g}":
                           place == i for i in place.unique().tolist()})
    return buckets(d, {f"{value:.3g}": margins == value for value in values}) if len(values) > 1 else []


def histogram(scores: Tensor, pairs: Pairs) -> dict:
    """How rewards of winners and losers are spread over the same cells."""
    low, high = float(scores.min()), float(scores.max())
    if low == high:
        return {}
    won, lost = (torch.histc(scores[pairs.index[:, side]], CELLS, low, high).long().tolist() for side in (0, 1))
    return {"low": low, "high": high, "won": won, "lost": lost}


def headline(card: dict) -> dict:
    """The numbers of a card that stand among a stage's metrics."""
    names = ("accuracy", "nll", "ece", "ece_scaled", "brier", "brier_scaled", "temperature", "length_correlation")
    single = len(card["models"]) == 1
    found = {"held_out_pairs": card["pairs"]}
    for model, own in card["models"].items():
        found |= {name if single else f"{model}.{name}": own[name] for name in names if name in own}
    if own := card["ensemble"]:
        found |= {f"ensemble.{name}": own[name] for name in (*names, "agreement", "members_accuracy") if name in own}
    return found


# --- words --------------------------------------------------------------------------------------------------------

def words(card: dict) -> list[str]:
    """What the marks say, as sentences: of one model all, of several their ensemble and what is wrong with a member."""
    alone, said = len(card["models"]) == 1, []
    if own := card["ensemble"]:
        gain = own["accuracy"] - own["members_accuracy"]
        said.append(f"the ensemble of {len(card['models'])} ({own['how']}) ranks {percent(own['accuracy'])} right, its "
                    f"members {percent(own['members_accuracy'])} on average: " +
                    (f"better by {100 * gain:.1f} points" if gain > 0 else f"no better ({100 * gain:+.1f} points)"))
    for name, own in card["models"].items():
        who, (low, high) = "it" if alone else name, own["interval"]
        if alone:
            said.append(f"it ranks {percent(own['accuracy'])} of {own['count']} held-out pairs right, between "
                        f"{percent(low)} and {percent(high)} with 95 % confidence")
        if low <= 0.5:
            said.append(f"{who} is {'no better' if high >= 0.5 else 'worse'} than a coin")
        if alone and "ece_scaled" in own:
            said.append(f"it is {'over' if own['temperature'] > 1 else 'under'}confident: at a temperature of "
                        f"{own['temperature']:.2f} its calibration error goes from {own['ece']:.3f} to "
                        f"{own['ece_scaled']:.3f}")
        if own["longer_preferred"] is not None and abs(own["longer_preferred"] - own["longer_won"]) > BIASED:
            kind = "length" if own["longer_preferred"] > own["longer_won"] else "brevity"
            said.append(f"{who} likes {kind}: it prefers the longer answer in {percent(own['longer_preferred'])} of "
                        f"pairs, people did in {percent(own['longer_won'])}")
    return said


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"
