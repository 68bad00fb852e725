"""The online stage: answers of the policy itself, the best against the worst, round after round.

    y_1 ... y_n ~ pi_t(.|x),   y_w = argmax r,  y_l = argmin r,   pi_(t+1) = learn(pi_t, reference, {(x, y_w, y_l)})

Any pairwise loss learns from the pairs (`preference.py`); who ranks the answers is a reward model, an ensemble, a
verifier, a function or a judge (Xu et al. 2023, "Some things are more cringe than others"; Guo et al. 2024, online AI
feedback).  The reference is the model a round starts from, or the one it all began with.  Pairs that an older policy
drew are dropped, unless `replay` keeps those of a few rounds.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Literal

from pydantic import Field, model_validator

from bloomery.align.candidates import Candidate, Group, read, scored
from bloomery.align.diagnostics import Watch, sampled_kl, span, warnings
from bloomery.align.judging import RewardConfig, Score, opened
from bloomery.align.pairs import Pair
from bloomery.align.preference import LearnConfig, learn
from bloomery.align.rounds import NothingToLearn, Round, RoundsConfig, drawn, finish, in_rounds, prompts, write_rows
from bloomery.core.metrics import read_metrics, say
from bloomery.core.records import Problem
from bloomery.data.formats import message_rows
from bloomery.generate.best_of import ranking
from bloomery.generate.sampling import AS_IS
from bloomery.losses.preference import UNPAIRED
from bloomery.model.store import load_model
from bloomery.model.transformer import Transformer
from bloomery.text.chat import Renderer, load_renderer
from bloomery.train.objective import Metrics
from bloomery.train.precision import machine
from bloomery.train.tuning import foretold


class PairRounds(RoundsConfig, LearnConfig):
    """Options of every stage that makes its own pairs."""

    anchor: Literal["round", "start"] = Field("round", description="what the policy is tied to: the model its round "
                                                                   "starts from, or the one it all began with")
    replay: int = Field(0, ge=0, description="rounds whose pairs are learned from again; older ones are dropped")

    @model_validator(mode="after")
    def of_pairs(self) -> "PairRounds":
        if self.loss in UNPAIRED:
            raise ValueError(f"{self.loss} learns from single answers, and rounds make pairs")
        return self


class Config(PairRounds):
    """Learn from pairs of the policy's own answers."""

    reward: RewardConfig = Field(description="who says which answer is better: models, verifier, function or judge")
    n: int = Field(4, ge=2, description="answers drawn to each prompt")
    least_gap: float = Field(0.0, ge=0, description="a pair's scores differ by more than this")
    missing_end: float = Field(1.0, ge=0, description="taken off the score of an answer that was cut off")


def forecast(config: Config, planned: dict[str, dict] | None = None) -> dict:
    """The steps of all rounds with their reference, and drawing: a forward pass a token."""
    drawn = config.prompts * config.n / (config.steps * config.pairs)
    return foretold(config.model_copy(update={"steps": config.steps * config.rounds}), planned, samples=config.pairs,
                    tokens_each=96, passes=4 / 3 + drawn / 3)


# --- pairs ------------------------------------------------------------------------------------------------------------

def best_and_worst(groups: Sequence[Group], *, least_gap: float = 0.0) -> tuple[list[dict], Counter]:
    """A row for each prompt whose answers differ in score, and how many prompts were dropped for which reason."""
    rows, dropped = [], Counter()
    for group in groups:
        order = ranking(group.scores)
        best, worst = group.candidates[order[0]], group.candidates[order[-1]]
        if best.score - worst.score <= least_gap:
            dropped["dropped/equal_scores"] += 1
        elif best.ids == worst.ids:
            dropped["dropped/equal_answers"] += 1
        elif not best.text:
            dropped["dropped/empty_answers"] += 1
        else:
            rows.append(row_of(group, best.ids, best.text, worst) | {"margin": best.score - worst.score})
    return rows, dropped


def row_of(group: Group, chosen_ids: list[int], chosen: str, rejected: Candidate) -> dict:
    """A pair as a preference that `dpo` reads, with the ids as they are learned from."""
    return {"prompt": message_rows(group.problem.prompt), "chosen": chosen, "rejected": rejected.text,
            "id": group.problem.id, "prompt_ids": group.prompt, "chosen_ids": chosen_ids,
            "rejected_ids": rejected.ids}


def pair_of(row: dict) -> Pair:
    return Pair(row["prompt_ids"], row["chosen_ids"], row["rejected_ids"], margin=row.get("margin", 0.0))


def with_older(rows: Sequence[dict], this: Round, replay: int) -> tuple[list[Pair], dict[str, int]]:
    """This round's pairs and those of the `replay` rounds before it; how many are old, and how many were dropped."""
    recent = this.before[len(this.before) - replay:] if replay else ()
    older = [row for folder in recent for row in read(folder / "pairs.jsonl")]
    dropped = sum(len(read(folder / "pairs.jsonl")) for folder in this.before) - len(older)
    return [pair_of(row) for row in (*rows, *older)], {"pairs": len(rows), "pairs_replayed": len(older),
                                                       "dropped/off_policy": dropped}


# --- a round ----------------------------------------------------------------------------------------------------------

def taught(config: PairRounds, this: Round, policy: Transformer, rows: Sequence[dict], renderer: Renderer,
           held_out: Sequence[Problem], *, score: Score | None = None) -> Metrics:
    """Learn from a round's pairs, watched against the model it all began with; exports the round's model."""
    if not rows:
        raise NothingToLearn("no pair is left", where=str(this.folder / "candidates.jsonl"),
                             why="every prompt was dropped: its answers do not differ",
                             hint="draw more answers (n=), or hotter (sampling.temperature=), or other prompts")
    write_rows(this.folder / "pairs.jsonl", rows)
    pairs, counts = with_older(rows, this, config.replay)
    start = load_model(Path(config.model), compute=policy.compute).to(policy.head.weight.device)
    watch = Watch(start, renderer, held_out, config.watch, score=score, seed=config.seed)
    state = learn(policy, start if config.anchor == "start" else None, pairs, config, this.folder, look=watch)
    rows = read_metrics(this.folder / "metrics.jsonl")
    for warning in warnings(rows):
        say(f"  warning: round {this.number}: {warning}")
    finish(state.model, config, renderer, this, watch)
    margins = span(rows, "rewards/margins")
    return counts | {"tokens": state.tokens} | ({"margin": margins[1]} if margins else {}) | state.best


def drawn_figures(groups: Sequence[Group]) -> Metrics:
    """TRL's figures of what was drawn: scores, the gap between best and worst, entropy, how many answers end."""
    every = [one for group in groups for one in group.candidates]
    return {"objective/scores": fmean(one.score for one in every),
            "objective/scores_margin": fmean(max(group.scores) - min(group.scores) for group in groups),
            "objective/entropy": -fmean(one.logp for one in every),
            "val/contain_eos_token": fmean(one.finished for one in every)}


def moved(policy: Transformer, config: Config, groups: Sequence[Group]) -> Metrics:
    """How far the policy is from where it began, on a drawn answer to each prompt; nothing if cuts shaped the draw."""
    if config.sampling.how != AS_IS:
        return {}
    start = load_model(Path(config.model), compute=policy.compute).to(policy.head.weight.device)
    kl = sampled_kl(policy, start, [g.prompt for g in groups], [g.candidates[0].ids for g in groups])["kl"]
    return {"objective/kl": kl, "objective/non_score_reward": -config.beta * kl}


def run(config: Config, out: Path) -> dict:
    """Rounds of drawing, ranking and learning; the last round's model is in `out`."""
    compute, device = machine(config)
    renderer = load_renderer(Path(config.model), config.template)
    problems, held_out = prompts(config, out)
    score = opened(config.reward, scales=out / "scales.json", compute=compute, device=device)

    def build(this: Round) -> dict:
        policy = load_model(this.source, compute=compute).to(device)
        answers, counts = drawn(config, this, policy, renderer, problems, n=config.n)
        groups = scored(answers, score, missing_end=config.missing_end)
        rows, dropped = best_and_worst(groups, least_gap=config.least_gap)
        figures = drawn_figures(groups) | moved(policy, config, groups)
        if "objective/kl" in figures:
            figures["objective/rlhf_reward"] = figures["objective/scores"] + figures["objective/non_score_reward"]
        say(f"  round {this.number}: {len(rows)} pairs from {len(groups)} prompts, mean score "
            f"{figures['objective/scores']:.4g}")
        return counts | dropped | figures | taught(config, this, policy, rows, renderer, held_out, score=score)

    found = in_rounds(config, out, name="online", renderer=renderer, build=build)
    return found[-1] | {"rounds": len(found),
                        "scores_by_round": {str(i): row["objective/scores"] for i, row in enumerate(found, 1)}}
