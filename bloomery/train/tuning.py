"""What every stage that starts from a finished model shares: its options, opening it, foretelling, and export.

A tuned model is a chat model: its folder has a template, and generation ends at the turn-end.
"""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from bloomery.core.config import Fixed, Input
from bloomery.model.store import load_config, load_model, save_model
from bloomery.model.transformer import Transformer
from bloomery.text.chat import Renderer
from bloomery.text.tokenizer import load_tokenizer
from bloomery.train.session import TrainingConfig


class TuningConfig(TrainingConfig):
    """Options of every stage that goes on from a model."""

    model: Annotated[Input, Fixed()] = Field(description="the model to start from, a Hugging Face folder")
    template: str = Field("chatml", description="chat template")
    micro_tokens: int = Field(8192, gt=0, description="tokens held in memory at once; any value gives the same step")


def open_model(config: TuningConfig) -> tuple[Transformer, Renderer]:
    """The model to start from, and the renderer of its tokenizer."""
    renderer = Renderer(load_tokenizer(Path(config.model)), config.template)
    return load_model(Path(config.model)), renderer


def export(model: Transformer, renderer: Renderer, out: Path) -> None:
    """A Hugging Face folder that chats."""
    tokenizer = renderer.tokenizer
    save_model(model, out, bos=tokenizer.eos, eos=[tokenizer.turn_end, tokenizer.eos])
    tokenizer.save(out, context=model.config.context, chat_template=renderer.template.jinja())


def foretold(config: TuningConfig, planned: dict[str, dict] | None, *, samples: int, tokens_each: int,
             passes: float = 1.0) -> dict:
    """What training costs as far as the model's shape is known: it is made, or planned by a stage before.

    `samples` a step of about `tokens_each` tokens; `passes` counts the work a token costs in training steps' worth.
    """
    model = (planned or {}).get(config.model, {}).get("model")
    if model is None and not (Path(config.model) / "config.json").is_file():
        return {}
    model = model or load_config(Path(config.model))
    tokens = config.steps * samples * min(tokens_each, model.context)
    return {"model": model, "parameters": model.parameters(), "tokens": tokens,
            "flops": tokens * model.flops_per_token() * passes, "memory_gb": 18 * model.parameters() / 1e9 + 1.0,
            "note": f"{tokens_each} tokens a sample assumed"}
