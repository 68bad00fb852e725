"""What the model writes while it learns: a few prompts continued every so often, said and kept in `samples.jsonl`.

How text is made is passed in as a function of the model (`generate/preview.py`): it has its own generator and a fixed
seed, so that a run with samples is bit for bit the run without them, and samples of two steps differ by training only.
"""

import json
from collections.abc import Callable
from pathlib import Path

from bloomery.core.artifacts import write_atomic
from bloomery.core.metrics import read_metrics, say
from bloomery.model.transformer import Transformer
from bloomery.train.hooks import Hook
from bloomery.train.state import Report, State

Preview = Callable[[Transformer], list[dict[str, str]]]         # -> [{"prompt": ..., "text": ...}, ...]


def sample_every(steps: int, preview: Preview, folder: Path, *, resume_step: int = 0) -> Hook:
    """Sample after every `steps` steps and after the last; rows a crash left after `resume_step` are dropped."""
    path = Path(folder) / "samples.jsonl"
    kept = [row for row in read_metrics(path) if row["step"] <= resume_step]
    write_atomic(path, "".join(map(line, kept)))

    def hook(state: State, report: Report) -> None:
        if state.step % steps == 0 or state.step == state.steps:
            written = preview(state.model)
            with path.open("a", encoding="utf-8") as file:
                file.writelines(line({"step": state.step, **row}) for row in written)
            for row in written:
                say(f"  {state.step}: {json.dumps(row['prompt'], ensure_ascii=False)} -> "
                    f"{json.dumps(row['text'], ensure_ascii=False)}")

    return hook


def line(row: dict) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"
