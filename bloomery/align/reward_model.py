"""The reward stage: a score that puts preferred answers first, on top of a model that already answers.

    loss = -log sigmoid(r_w - r_l - margin) + centre (r_w + r_l)^2        mean over the pairs of a prompt, then prompts

r is read at an answer's last token, its turn-end (Ouyang et al. 2022, section 3.5; Bradley & Terry 1952).  A prompt is
computed once for all its answers; K ranked ones are all their pairs, or one order (`losses/ranking.py`).  One epoch is
enough: beyond it a reward model learns its pairs by heart.

Afterwards scores are shifted so that demonstrations have mean 0.  transformers' head has no bias, so the shift goes
into the head's weights, along a direction v with v . h ~ 1 wherever an answer ends; the folder then says the same there
as here.  `card.json` says how good all of it is on pairs the model has not seen, and the temperature at which a
difference of scores is a log-odds.
"""

import json
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from bloomery.align.calibration import accuracy, ece, nll
from bloomery.align.rankings import Ranked, RankingBatch, ranked_stream, render_rankings
from bloomery.align.report_card import CARD, answer_scores, difference, headline, pairs_of, ranked_rows, report_card
from bloomery.core.artifacts import write_atomic
from bloomery.core.config import Fixed, Input
from bloomery.core.errors import ConfigError, InputError
from bloomery.core.files import Quarantine
from bloomery.core.metrics import say
from bloomery.core.records import Conversation, Preference, Ranking
from bloomery.data.formats import conversations, preference_row, preferences, ranking_row
from bloomery.data.splits import shared_prompts, split_by_prompt, spread_out
from bloomery.losses.ranking import RANKING, bradley_terry, centring
from bloomery.model.adapt import AdaptConfig, adapt, merge, trained_share
from bloomery.model.forest import Forest, roots
from bloomery.model.scalar import ScalarModel, last_tokens, save_scalar
from bloomery.text.chat import Renderer
from bloomery.train.objective import Metrics, Objective
from bloomery.train.session import train
from bloomery.train.tuning import TuningConfig, foretold, open_model

MERGED = ("full", "lora", "qlora", "ia3")       # ways of adapting that end in plain weights, which a folder can hold
RIDGE = 1e-3                                    # of the mean squared hidden value, in the fit of v

Answers = Preference | Ranking
Shown = tuple[list[int], list[int]]             # ids of a prompt and of an answer


class Config(TuningConfig):
    """Learn a reward from answers that were compared."""

    data: Input | None = Field(None, description="preferences: `prompt`, `chosen`, `rejected`; where people said so "
                                                 "also `margin`, and `share` or `votes` as soft labels")
    rankings: Input | None = Field(None, description="beside data or in its place: `prompt`, `answers`, `ranks`")
    columns: dict[str, str] = Field({}, description="their column = ours, where they differ: question = \"prompt\"")
    validation: Input | None = Field(None, description="held-out preferences; default: a share of the data's prompts")
    held_out: float = Field(0.1, ge=0, lt=1, description="share of the prompts held out where there is no validation")
    ranking: Literal["all_pairs", "plackett_luce"] = Field("all_pairs", description="what an order of more than two "
                                                                                    "answers says")
    centre: float = Field(0.01, ge=0, description="weight of (r_w + r_l)^2, which holds scores near 0")
    head: Annotated[Literal["zero", "normal"], Fixed()] = Field(
        "zero", description="how the head begins: zero, or normal with deviation 1 / sqrt(width + 1)")
    reference: Input | None = Field(None, description="demonstrations whose mean score becomes 0; default: the "
                                                      "chosen answers of training")
    references: int = Field(256, gt=0, description="demonstrations looked at")
    pairs: int = Field(32, gt=0, description="prompts with their answers a step")
    validation_pairs: int = Field(256, gt=0, description="held-out prompts looked at in each validation; the report "
                                                         "card is of all of them")
    adapt: AdaptConfig = AdaptConfig()


def forecast(config: Config, planned: dict[str, dict] | None = None) -> dict:
    """The steps, at 128 tokens a prompt with its answers."""
    return foretold(config, planned, samples=config.pairs, tokens_each=128)


def objective(ranking: str = "all_pairs", *, centre: float = 0.0) -> Objective:
    """The objective: pairs by `bradley_terry`, orders of more than two by `RANKING[ranking]`; TRL's metrics."""
    def ranked(model: ScalarModel, batch: RankingBatch) -> tuple[Tensor, Metrics]:
        scores = model.scores(batch.ids, batch.segments)[batch.segments.parent >= 0, 0]
        r_w, r_l, part = scores[batch.better], scores[batch.worse], batch.part.to(scores)
        losses = bradley_terry(r_w, r_l, margin=batch.margin.to(scores), share=batch.share.to(scores))
        of_pairs = part if ranking == "all_pairs" else part * (part == 1)       # one pair a prompt: both say the same
        loss = (of_pairs * losses).sum()
        if ranking != "all_pairs":
            apart = zip(scores.split([len(ranks) for ranks in batch.ranks]), batch.ranks, strict=True)
            loss = loss + sum(RANKING[ranking](own, ranks) for own, ranks in apart if len(ranks) > 2)
        total = loss + centre * (part * centring(r_w, r_l)).sum()
        told = torch.stack([total, loss, (part * (r_w > r_l)).sum(), (part * (r_w - r_l)).sum(),
                            (part * (r_w + r_l)).sum() / 2]).tolist()
        return total, dict(zip(("loss", "ranking_loss", "accuracy", "margin", "mean_reward"), told, strict=True))

    return ranked


def run(config: Config, out: Path) -> dict:
    """Train, shift, measure; exports a folder that transformers opens as `...ForSequenceClassification`."""
    raise_contradictions(config)
    trunk, renderer = open_model(config)
    context, where, quarantine = trunk.config.context, config.data or config.rankings, Quarantine()
    training, held_out = gathered(config, quarantine)
    demonstrations = conversations(config.reference, quarantine) if config.reference else []
    quarantine.write(out)
    write_held_out(held_out, out)
    groups, counts = render_rankings(training, renderer, context, where=where)
    measured = render_rankings(held_out, renderer, context, where=config.validation or where)[0] if held_out else []
    epochs = config.steps * config.pairs / len(groups)
    say(f"  reward: {len(groups)} prompts to learn from, {len(measured)} held out, {epochs:.1f} epochs" +
        "; beyond one a reward model learns its pairs by heart" * (epochs > 1.5))
    model = ScalarModel(trunk, seed=config.seed if config.head == "normal" else None, pad=padding(renderer))
    if config.head == "zero":
        torch.nn.init.zeros_(model.score.weight)
    adapt(model.trunk, config.adapt, seed=config.seed)
    state = train(model, config, out, name="reward", objective=objective(config.ranking, centre=config.centre),
                  stream=ranked_stream(groups, size=config.pairs, micro_tokens=config.micro_tokens, seed=config.seed),
                  validate=validation(spread_out(measured, config.validation_pairs), config.micro_tokens))
    learned, share = state.model, trained_share(state.model)
    learned.trunk = learned.trunk if config.adapt.method == "full" else merge(learned.trunk)
    learned.compute = torch.float32                             # what readers of the folder compute in
    answers = [(group.prompt, ids) for group in groups[:config.references] for ids in group.answers]
    best = [(group.prompt, group.answers[group.ranks.index(1)]) for group in groups[:config.references]]
    references = shown(demonstrations, renderer, context)[:config.references] if demonstrations else best
    found = centre_head(learned, references, answers, config.micro_tokens)
    export(learned, renderer, out)
    return {**counts, "quarantined": len(quarantine), "shared_prompts": shared_prompts(training, held_out),
            "tokens": state.tokens, "epochs": epochs, "trained_share": share, **state.best, **found,
            **(judged(learned, measured, out, config.micro_tokens) if measured else {})}


def raise_contradictions(config: Config) -> None:
    """One `ConfigError` for options that exclude each other, before any data is read."""
    if not (config.data or config.rankings):
        raise ConfigError("nothing to learn from", where="reward", hint="give data, or rankings")
    if config.adapt.method not in MERGED:
        raise ConfigError(f"a reward model is not made with adapt.method = {config.adapt.method}", where="reward.adapt",
                          why="its folder holds plain weights, and this way of adapting does not end in such",
                          hint=f"one of {', '.join(MERGED)}")
    if config.sample_every:
        raise ConfigError("a reward model writes no samples", where="reward.sample_every", hint="leave it out")
    if max(config.parallel.shard, config.parallel.tensor) > 1:
        raise ConfigError("a reward model is not split over ranks", where="reward.parallel",
                          hint="leave out shard and tensor: ranks then hold copies")


def gathered(config: Config, quarantine: Quarantine) -> tuple[list[Answers], list[Answers]]:
    """What to learn from and what is held out, with a word on prompts that are in both."""
    rows = ranked_rows(config.data, config.rankings, quarantine, config.columns)
    if config.validation:
        training, held_out = rows, preferences(config.validation, quarantine, columns=config.columns)
    else:
        training, held_out = split_by_prompt(rows, config.held_out)
    if not training:
        raise InputError("nothing is left to learn from", where=config.data or config.rankings,
                         why=f"all {len(rows)} rows are held out", hint="a smaller held_out, or more data")
    if shared := shared_prompts(training, held_out):
        say(f"  warning: {shared} of {len(held_out)} held-out rows have a prompt that is trained on: what is measured "
            "on them is too good")
    return training, held_out


def write_held_out(rows: Sequence[Answers], out: Path) -> None:
    """The rows nothing was learned from, for whoever measures later."""
    pairs = [preference_row(row) for row in rows if isinstance(row, Preference)]
    orders = [ranking_row(row) for row in rows if isinstance(row, Ranking)]
    for name, found in (("heldout.jsonl", pairs), ("heldout_rankings.jsonl", orders)):
        if found:
            write_atomic(out / name, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found))


def padding(renderer: Renderer) -> int | None:
    """The token transformers fills rows up with; none where answers end with it, for their end would not be found."""
    pad = renderer.tokenizer.eos
    return pad if pad != renderer.end else None


def validation(groups: Sequence[Ranked], micro_tokens: int) -> Callable[[ScalarModel], Metrics]:
    """Measures a model on held-out prompts; nothing where there are none."""
    pairs = pairs_of(groups) if groups else None

    def validate(model: ScalarModel) -> Metrics:
        if not pairs:
            return {}
        scores = answer_scores(model, groups, micro_tokens)
        d = difference(scores, pairs)
        return {"val_loss": nll(d), "val_accuracy": accuracy(d), "val_margin": float(d.mean()), "val_ece": ece(d),
                "val_mean_reward": float(scores.mean()), "val_min_reward": float(scores.min()),
                "val_max_reward": float(scores.max())}

    return validate


# --- afterwards ---------------------------------------------------------------------------------------------------

def shown(demonstrations: Sequence[Conversation], renderer: Renderer, context: int) -> list[Shown]:
    """The last answer of every demonstration that ends with one and fits, behind its prompt."""
    found = [(renderer.prompt(row.messages[:-1]), renderer.answer(row.messages[-1].spoken))
             for row in demonstrations if row.messages[-1].role == "assistant"]
    fits = [(prompt, ids) for prompt, ids in found if len(prompt) + len(ids) <= context]
    if not fits:
        raise InputError("no demonstration can be scored", where="reference",
                         why=f"of {len(demonstrations)} none ends with an answer and fits {context} tokens")
    return fits


@torch.no_grad()
def centre_head(model: ScalarModel, references: Sequence[Shown], answers: Sequence[Shown], micro_tokens: int) -> dict:
    """Change the head so that the mean score of the references is 0, and other scores by as nearly the same.

    w <- w - mean(h . w) v,  v = (H'H / M + ridge)^-1 mean(h) over all `answers`, good and bad: fitted on good ones
    alone v would be what they have in common, which is the reward.  `shift_spread` is the deviation of what was taken
    off.
    """
    hidden, shown = (torch.cat([last_hidden(model, those[first:last]) for first, last in bounds(those, micro_tokens)])
                     for those in (answers, references))                                 # (M, D)
    second, mean = hidden.T @ hidden / len(hidden), shown.mean(0)                        # (D, D), (D,)
    ridge = RIDGE * second.trace() / len(mean) * torch.eye(len(mean), dtype=second.dtype)
    v = torch.linalg.solve(second + ridge, hidden.mean(0))
    v /= mean @ v
    weight = model.score.weight[0]
    shift = float(mean @ weight.double().cpu())
    weight -= (shift * v).to(weight)
    after = shown @ weight.double().cpu()
    return {"shift": -shift, "shift_spread": abs(shift) * float((hidden @ v).std(correction=0)),
            "reference_mean": float(after.mean()), "reference_deviation": float(after.std(correction=0))}


def bounds(answers: Sequence[Shown], micro_tokens: int) -> list[tuple[int, int]]:
    """Where to cut a list into pieces of about `micro_tokens` tokens."""
    cuts, held = [0], 0
    for place, (prompt, ids) in enumerate(answers):
        if held and held + len(prompt) + len(ids) > micro_tokens:
            cuts.append(place)
            held = 0
        held += len(prompt) + len(ids)
    return list(pairwise([*cuts, len(answers)]))


def last_hidden(model: ScalarModel, answers: Sequence[Shown]) -> Tensor:
    """What the head reads of every answer, (M, D) float64."""
    runs = [prompt + ids for prompt, ids in answers]
    segments = roots(list(map(len, runs)))
    ids = torch.tensor([i for run in runs for i in run], device=model.score.weight.device)
    hidden = model.trunk(ids, segments.positions.to(ids.device), Forest(segments))
    return hidden[torch.tensor(last_tokens(segments))].double().cpu()


def export(model: ScalarModel, renderer: Renderer, out: Path) -> None:
    """A folder that transformers opens as `...ForSequenceClassification`, its tokenizer beside it."""
    tokenizer = renderer.tokenizer
    save_scalar(model, out, bos=tokenizer.begin, eos=[*dict.fromkeys((renderer.end, tokenizer.eos))])
    tokenizer.save(out, context=model.config.context, chat_template=renderer.template.jinja())


def judged(model: ScalarModel, groups: Sequence[Ranked], out: Path, micro_tokens: int) -> dict:
    """Write the report card of the held-out prompts; its headline."""
    card = report_card({"reward": answer_scores(model, groups, micro_tokens)}, pairs_of(groups))
    write_atomic(out / CARD, json.dumps(card, indent=1))
    for line in card["words"]:
        say(f"  reward: {line}")
    return headline(card)
