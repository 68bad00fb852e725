"""The sft stage: supervised fine-tuning on conversations, only the assistant's words trained.

    loss = -sum_t w_t log p(x_t | x_<t) / sum_t w_t        w_t = 1 where the assistant speaks, its turn-end included

The mask comes from rendering (`text/chat.py`); data in which nothing would be trained is an error before any step.
"""

from pathlib import Path

from pydantic import Field

from bloomery.core.config import Input
from bloomery.core.errors import InputError
from bloomery.core.files import Quarantine
from bloomery.core.metrics import say
from bloomery.core.records import Conversation
from bloomery.data.batch import Batch, Run, forest, sequence
from bloomery.data.formats import conversations
from bloomery.data.packing import best_fit_decreasing
from bloomery.data.stream import Stream, samples
from bloomery.data.validation import batches as in_order
from bloomery.generate.preview import preview
from bloomery.model.transformer import Transformer
from bloomery.text.chat import Renderer
from bloomery.train.objective import causal_lm, total_nll
from bloomery.train.session import train
from bloomery.train.tuning import TuningConfig, export, foretold, open_model


class Config(TuningConfig):
    """Fine-tune on conversations."""

    data: Input = Field(description="a file or folder of conversations: `messages`, or `prompt` and `completion`")
    validation: Input | None = Field(None, description="held-out conversations for validation")
    examples: int = Field(64, gt=0, description="conversations a step")
    validation_examples: int = Field(256, gt=0, description="held-out conversations looked at in each validation")


def forecast(config: Config, planned: dict[str, dict] | None = None) -> dict:
    """The steps, at 64 tokens a conversation."""
    return foretold(config, planned, samples=config.examples, tokens_each=64)


def rendered_runs(data: list[Conversation], renderer: Renderer, context: int, *, where: str) -> tuple[list[Run], dict]:
    """Conversations as runs, with counts of what was dropped and the share of trained tokens.

    Policy for a conversation longer than the context: drop, and count. `InputError` when nothing is left to train on.
    """
    runs, too_long = [], 0
    for conversation in data:
        rendered = renderer.conversation(conversation.messages)
        if len(rendered.ids) > context + 1:
            too_long += 1
        elif any(rendered.trained):
            runs.append(sequence(rendered.ids, rendered.trained))
    nothing = len(data) - too_long - len(runs)
    if not runs:
        raise InputError("nothing to train on", where=where,
                         why=f"of {len(data)} conversations {too_long} are longer than the context of {context} tokens "
                             f"and {nothing} have no assistant turn", hint="look at the rows with: bloomery show data")
    tokens, trained = sum(len(r.ids) for r in runs), sum(sum(r.weights) for r in runs)
    return runs, {"examples": len(runs), "dropped_examples": too_long + nothing, "dropped/too_long": too_long,
                  "dropped/no_assistant_turn": nothing, "supervised_tokens": int(trained),
                  "supervised_share": trained / tokens}


def packed(runs: list[Run], *, examples: int, micro_tokens: int, seed: int) -> Stream:
    """Each step `examples` runs in the order of `samples`, best-fit into micro-batches of at most `micro_tokens`."""
    def batches(step: int) -> list[Batch]:
        chosen = [runs[i] for i in samples(step, examples, len(runs), seed)]
        lengths = [len(run.ids) for run in chosen]
        bins = best_fit_decreasing(lengths, max(micro_tokens, *lengths))
        return [forest([chosen[i] for i in group]) for group in bins]

    return batches


def run(config: Config, out: Path) -> dict:
    """Fine-tune all weights and export a Hugging Face folder that chats."""
    model, renderer = open_model(config)
    context = model.config.context
    quarantine = Quarantine()
    data = conversations(config.data, quarantine)
    runs, counts = rendered_runs(data, renderer, context, where=config.data)
    held_out, _ = rendered_runs(conversations(config.validation, quarantine)[:config.validation_examples], renderer,
                                context, where=config.validation) if config.validation else ([], {})
    quarantine.write(out)
    say(f"  sft: {counts['examples']} conversations, {counts['supervised_share']:.0%} of their tokens trained, "
        f"{counts['dropped_examples']} dropped")

    def validate(model: Transformer) -> dict[str, float]:
        if not held_out:
            return {}
        nats, tokens = total_nll(model, in_order(held_out, config.micro_tokens))
        return {"val_loss": nats / tokens}

    stream = packed(runs, examples=config.examples, micro_tokens=config.micro_tokens, seed=config.seed)
    state = train(model, config, out, name="sft", stream=stream, objective=causal_lm, validate=validate,
                  preview=config.sample_every and preview(config.sample_prompts, renderer, context=context))
    export(state.model, renderer, out)
    return {**counts, "quarantined": len(quarantine), "tokens": state.tokens, **state.best}
