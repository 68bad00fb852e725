"""The rejection stage: draw many answers, keep the best, fine-tune on them, and again.

    y_1 ... y_n ~ pi(.|x)      kept: the k of highest reward, finished, distinct, above a threshold
    loss = -mean log pi(y|x) over the tokens of the kept answers

Rejection-sampling fine-tuning as in Llama 2 (Touvron et al. 2023, section 3.2.3), RAFT (Dong et al. 2023) and, with a
verifier for a reward, STaR (Zelikman et al. 2022).  Each round also tells the best-of-N curve of what it drew, which is
what can be had without training.
"""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from bloomery.align.best_of_n import by_n, curve, peak
from bloomery.align.candidates import Candidate, Group, scored
from bloomery.align.diagnostics import Watch
from bloomery.align.judging import RewardConfig, opened
from bloomery.align.rounds import (
    NothingToLearn,
    Round,
    RoundsConfig,
    drawn,
    finish,
    in_rounds,
    prompts,
    write_rows,
)
from bloomery.core.artifacts import write_atomic
from bloomery.core.metrics import say
from bloomery.core.records import Conversation, Message
from bloomery.data.batch import sequence
from bloomery.data.formats import conversation_row
from bloomery.data.stream import Stream, samples
from bloomery.data.tasks import Example, micro_batches
from bloomery.generate.best_of import ranking
from bloomery.model.adapt import adapt
from bloomery.model.store import load_model
from bloomery.text.chat import load_renderer
from bloomery.train.objective import causal_lm
from bloomery.train.precision import machine
from bloomery.train.session import train
from bloomery.train.tuning import foretold

Kept = tuple[Group, Candidate]


class Config(RoundsConfig):
    """Fine-tune on a model's own best answers."""

    reward: RewardConfig = Field(description="who says which answer is better: models, verifier, function or judge")
    gold: RewardConfig | None = Field(None, description="another reward, never chosen by: what is really gained")
    n: int = Field(8, gt=0, description="answers drawn to each prompt")
    top: int = Field(1, gt=0, description="answers kept of each prompt")
    threshold: float | None = Field(None, description="the least score of an answer that is kept")
    begin: Literal["round", "start"] = Field("round", description="what a round trains: the model of the round before, "
                                                                  "or the one it all began with")
    examples: int = Field(32, gt=0, description="answers a step")


def forecast(config: Config, planned: dict[str, dict] | None = None) -> dict:
    """The steps of all rounds, and drawing: a forward pass a token."""
    drawn = config.prompts * config.n / max(1, config.steps * config.examples)
    return foretold(config.model_copy(update={"steps": config.steps * config.rounds}), planned,
                    samples=config.examples, tokens_each=96, passes=1 + drawn / 3)


def kept(groups: Sequence[Group], *, top: int, threshold: float | None) -> tuple[list[Kept], Counter]:
    """The best `top` answers to each prompt, best first, and how many answers were dropped for which reason."""
    chosen, dropped = [], Counter()
    for group in groups:
        texts: set[str] = set()
        for place in ranking(group.scores):
            one = group.candidates[place]
            reason = refusal(one, texts, threshold) or ("not_among_the_best" if len(texts) == top else None)
            if reason:
                dropped[f"dropped/{reason}"] += 1
            else:
                texts.add(one.text)
                chosen.append((group, one))
    return chosen, dropped


def refusal(one: Candidate, texts: set[str], threshold: float | None) -> str | None:
    """Why an answer is not learned from, or None; `texts` are the better ones to the same prompt."""
    if not one.finished:
        return "unfinished"
    if not one.text:
        return "empty"
    if threshold is not None and one.score < threshold:
        return "below_threshold"
    return "duplicate" if one.text in texts else None


def learned(chosen: Sequence[Kept], *, size: int, micro_tokens: int, seed: int) -> Stream:
    """Each step `size` kept answers, their ids as they were drawn, only they trained."""
    examples = [Example(**vars(sequence(group.prompt + one.ids, [0.0] * len(group.prompt) + [1.0] * len(one.ids))))
                for group, one in chosen]
    return lambda step: micro_batches([examples[i] for i in samples(step, size, len(examples), seed)], micro_tokens,
                                      tasks=False)


def said(group: Group, one: Candidate) -> dict:
    """A kept answer as a conversation that `sft` reads."""
    answered = Conversation((*group.problem.prompt, Message("assistant", one.text)), id=group.problem.id)
    return conversation_row(answered) | {"score": one.score}


def found_none(this: Round, dropped: Counter) -> NothingToLearn:
    return NothingToLearn("no answer was good enough", where=str(this.folder / "candidates.jsonl"),
                          why=", ".join(f"{times} {name.partition('/')[2]}" for name, times in dropped.items()),
                          hint="lower threshold, draw more (n=), or longer (sampling.max_tokens=)")


def run(config: Config, out: Path) -> dict:
    """Rounds of drawing, choosing and fine-tuning; the last round's model is in `out`."""
    compute, device = machine(config)
    renderer = load_renderer(Path(config.model), config.template)
    problems, held_out = prompts(config, out)
    score = opened(config.reward, scales=out / "scales.json", compute=compute, device=device)
    gold = config.gold and opened(config.gold, scales=out / "gold_scales.json", compute=compute, device=device)

    def build(this: Round) -> dict:
        model = load_model(this.source, compute=compute).to(device)
        answers, counts = drawn(config, this, model, renderer, problems, n=config.n)
        groups = scored(answers, score)
        rows = curve([group.scores for group in groups], [[one.logp for one in group.candidates] for group in groups],
                     gold and [group.scores for group in scored(answers, gold)])
        chosen, dropped = kept(groups, top=config.top, threshold=config.threshold)
        write_rows(this.folder / "chosen.jsonl", [said(*pair) for pair in chosen])
        write_atomic(this.folder / "best_of_n.json", json.dumps(rows, indent=1))
        if not chosen:
            raise found_none(this, dropped)
        say(f"  round {this.number}: {len(chosen)} of {len(groups) * config.n} answers kept, "
            f"reward {rows[0]['reward']:.4g}, best of {config.n} {rows[-1]['reward']:.4g}")
        start = load_model(Path(config.model), compute=compute).to(device)
        watch = Watch(start, renderer, held_out, config.watch, score=score, seed=config.seed)
        if config.begin == "start":
            model = load_model(Path(config.model), compute=compute).to(device)
        adapt(model, config.adapt, seed=config.seed)
        stream = learned(chosen, size=config.examples, micro_tokens=config.micro_tokens, seed=this.seed(config.seed))
        state = train(model, config, this.folder, name=f"rejection {this.number}", stream=stream, objective=causal_lm,
                      validate=watch)
        finish(state.model, config, renderer, this, watch)
        learners = {id(group) for group, _ in chosen}
        return counts | {"examples": len(chosen), "prompts_without_example": len(groups) - len(learners)} | dropped | \
            {"reward": rows[0]["reward"], "reward_best": rows[-1]["reward"], "tokens": state.tokens} | by_n(rows) | \
            peak(rows) | state.best

    made = in_rounds(config, out, name="rejection", renderer=renderer, build=build)
    return made[-1] | {"rounds": len(made),
                       "reward_by_round": {str(number): row["reward"] for number, row in enumerate(made, 1)}}
