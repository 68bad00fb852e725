"""What every stage that starts from a finished model shares: its options, opening it, foretelling, and export.

A tuned model is a chat model: its folder has a template, and generation ends at the turn-end.
"""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from bloomery.core.config import Fixed, Input
from bloomery.core.metrics import say
from bloomery.model.adapt import merge, merges
from bloomery.model.peft_files import adapter_base, save_adapter
from bloomery.model.store import is_model, load_config, load_model, save_generation, save_model
from bloomery.model.transformer import Transformer
from bloomery.text.chat import Renderer, load_renderer
from bloomery.train.session import TrainingConfig

KEPT = ("lora", "qlora", "prefix", "ia3")        # ways of adapting that leave every weight of the model as it is


class TuningConfig(TrainingConfig):
    """Options of every stage that goes on from a model."""

    model: Annotated[Input, Fixed()] = Field(description="the model to start from, a Hugging Face folder")
    template: str = Field("auto", description="chat template: a name of text/templates.py, or auto: the model's own")
    micro_tokens: int = Field(8192, gt=0, description="tokens held in memory at once; any value gives the same step")


def open_model(config: TuningConfig, *, train: str = "assistant") -> tuple[Transformer, Renderer]:
    """The model to start from, and the renderer of its tokenizer; `train` is what of a dialogue has weight."""
    renderer = load_renderer(Path(config.model), config.template, train=train)
    return load_model(Path(config.model)), renderer


def export(model: Transformer, renderer: Renderer, out: Path) -> None:
    """A Hugging Face folder that chats."""
    save_model(model, out, bos=renderer.tokenizer.begin, eos=ends(renderer))
    renderer.tokenizer.save(out, context=model.config.context, chat_template=renderer.template.jinja())


def export_adapter(model: Transformer, renderer: Renderer, out: Path, *, base: str) -> Transformer | None:
    """The adapter and the tokenizer, in `out/adapter`; the model with plain weights.

    An adapter that is no change of weights is all there is: `out` itself is then its folder, which opens as a model
    does as long as its base is there, and None is returned.
    """
    folder = out / "adapter" if merges(model) else out
    base = base if merges(model) else str(adapter_base(Path(base)) or base)
    save_adapter(model, folder, base=base)
    renderer.tokenizer.save(folder, context=model.config.context, chat_template=renderer.template.jinja())
    save_generation(folder, model.config.context, bos=renderer.tokenizer.begin, eos=ends(renderer))
    if merges(model):
        return merge(model)
    say(f"  only an adapter is written, which opens as a model does; it needs its base: {base}")
    return None


def ends(renderer: Renderer) -> list[int]:
    """What ends a generation: the turn-end first."""
    return [*dict.fromkeys((renderer.end, renderer.tokenizer.eos))]


def foretold(config: TuningConfig, planned: dict[str, dict] | None, *, samples: int, tokens_each: int,
             passes: float = 1.0) -> dict:
    """What training costs as far as the model's shape is known: it is made, or planned by a stage before.

    `samples` a step of about `tokens_each` tokens; `passes` counts the work a token costs in training steps' worth.
    """
    model = (planned or {}).get(config.model, {}).get("model")
    if model is None and not is_model(Path(config.model)):
        return {}
    model = model or load_config(Path(config.model))
    tokens = config.steps * samples * min(tokens_each, model.context)
    return {"model": model, "parameters": model.parameters(), "tokens": tokens,
            "flops": tokens * model.flops_per_token() * passes, "memory_gb": 18 * model.parameters() / 1e9 + 1.0,
            "note": f"{tokens_each} tokens a sample assumed"}
