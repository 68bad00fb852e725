"""The spin stage: self-play. The policy learns to tell the data's answers from its own of the round before.

    y' ~ pi_t(.|x),   loss = -log sigmoid(beta [(log pi - log pi_t)(y|x) - (log pi - log pi_t)(y'|x)])

Chen et al. 2024, "Self-play fine-tuning converts weak language models to strong language models", eq. 4.7: DPO whose
rejected answers are its own, and whose reference is the round's start.  No reward is needed; where the model says
what the data says, there is nothing left to learn.  As in the authors' runs a round also sees the pairs of the one
before.
"""

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from bloomery.align.candidates import Group
from bloomery.align.online import PairRounds, row_of, taught
from bloomery.align.rounds import Round, drawn, in_rounds, prompts
from bloomery.core.config import Input
from bloomery.core.metrics import say
from bloomery.model.store import load_model
from bloomery.text.chat import Renderer, load_renderer
from bloomery.train.precision import machine
from bloomery.train.tuning import foretold


class Config(PairRounds):
    """Learn to tell the data's answers from the model's own."""

    data: Input = Field(description="a file or folder of conversations: the last answer of each is what is wanted")
    validation: Input | None = Field(None, description="held-out conversations, on which the model is watched")
    replay: int = Field(1, ge=0, description="rounds whose pairs are learned from again; older ones are dropped")
    last_beta: float | None = Field(None, gt=0, description="beta of the last round; the authors' runs have 5")
    least_growth: float | None = Field(None, description="end when the margin of a round exceeds the one before by no "
                                                         "more than this")


def forecast(config: Config, planned: dict[str, dict] | None = None) -> dict:
    """The steps of all rounds with their reference, and drawing: a forward pass a token."""
    drawn = config.prompts / (config.steps * config.pairs)
    return foretold(config.model_copy(update={"steps": config.steps * config.rounds}), planned, samples=config.pairs,
                    tokens_each=96, passes=4 / 3 + drawn / 3)


def against_own(groups: Sequence[Group], renderer: Renderer, context: int) -> tuple[list[dict], dict[str, int]]:
    """A row for each prompt whose wanted answer is not the drawn one and fits; how many were dropped, and why."""
    rows, dropped = [], {"dropped/equal_answers": 0, "dropped/too_long": 0}
    for group in groups:
        target, (own,) = renderer.answer(group.problem.answer), group.candidates
        if own.ids == target:
            dropped["dropped/equal_answers"] += 1
        elif len(group.prompt) + len(target) > context:
            dropped["dropped/too_long"] += 1
        else:
            rows.append(row_of(group, target, group.problem.answer, own))
    return rows, dropped


def flat(rows: Sequence[dict], least_growth: float | None) -> str | None:
    """Why the rounds should end, or None: real and generated answers are told apart no better than a round ago."""
    margins = [row["margin"] for row in rows if "margin" in row]
    if least_growth is None or len(margins) < 2 or margins[-1] - margins[-2] > least_growth:
        return None
    return f"the margin between wanted and own answers went from {margins[-2]:.3g} to {margins[-1]:.3g}"


def run(config: Config, out: Path) -> dict:
    """Rounds of answering and learning; the last round's model is in `out`."""
    compute, device = machine(config)
    renderer = load_renderer(Path(config.model), config.template)
    problems, held_out = prompts(config, out, answered=True)

    def build(this: Round) -> dict:
        policy = load_model(this.source, compute=compute).to(device)
        groups, counts = drawn(config, this, policy, renderer, problems, n=1)
        rows, dropped = against_own(groups, renderer, policy.config.context)
        say(f"  round {this.number}: {len(rows)} pairs, {dropped['dropped/equal_answers']} answers are the wanted ones "
            "already")
        last = this.number == config.rounds and config.last_beta
        own = config.model_copy(update={"beta": config.last_beta}) if last else config
        return counts | dropped | taught(own, this, policy, rows, renderer, held_out)

    found = in_rounds(config, out, name="spin", renderer=renderer, build=build,
                      enough=lambda rows: flat(rows, config.least_growth))
    return found[-1] | {"rounds": len(found),
                        "margin_by_round": {str(i): row["margin"] for i, row in enumerate(found, 1) if "margin" in row}}
