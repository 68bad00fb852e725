"""`bloomery merge`: a base and an adapter's folder become one model that needs no adapter, and is checked to be theirs.

The adapter's own arithmetic, W0 x + s B A x, is asked for the logits of fixed prompts; then the change is folded into
the weights in fp32, rounded once to the asked dtype, and written as `export` writes.  The folder is opened again, and
only one that says the same gets its name.
"""

from pathlib import Path

from bloomery.core.errors import GateError, InputError
from bloomery.export import TOLERANCE, Source, distance, logits, prompts, raise_unless_writable, written
from bloomery.model.adapt import merge as merge_weights
from bloomery.model.hub import is_hub_id, located
from bloomery.model.lora import unfolded
from bloomery.model.peft_files import load_adapter, load_adapter_config
from bloomery.model.store import load_generation, load_model


def merge(adapter: str, out: Path, *, base: str = "", dtype: str = "fp32", shard_gb: float = 5.0) -> dict:
    """Write `out` from an adapter's folder and its base, and say how exact it is.

    Without `base` the adapter's own configuration says which it is.  Raises `GateError` where the merged model is not
    the adapted one within `TOLERANCE` (before rounding to `dtype`, whose cost is told), and then leaves nothing behind.
    """
    raise_unless_writable(out, dtype)
    place = Path(located(adapter))
    base = base or load_adapter_config(place).get("base_model_name_or_path") or ""
    if not base:
        raise InputError("the adapter does not say what its base is", where=str(place), hint="give it with --base")
    home = Path(located(base if Path(base).is_dir() or is_hub_id(base) else f"hf:{base}"))
    model = load_adapter(load_model(home), place)
    words = next((folder for folder in (place, home) if (folder / "tokenizer.json").is_file()), None)
    if words is None:
        raise InputError("neither the base nor the adapter has a tokenizer", where=str(home))
    source = Source(merge_weights(model), words, load_generation(home))
    asked = prompts(source)
    with unfolded(model):
        adapted = logits(model, asked)
    merged = logits(source.model, asked)
    difference, allowed = distance(adapted, merged), TOLERANCE * max(1.0, max(float(x.abs().max()) for x in adapted))
    if difference > allowed:
        raise GateError("the merged model is not the adapted one", where=str(place),
                        why=f"logits differ by {difference:.2g}, allowed are {allowed:.2g}",
                        hint="nothing was written; keep base and adapter apart")
    return {"base": base, "merging": difference, **written(source, Path(out), dtype=dtype, shard_gb=shard_gb)}
