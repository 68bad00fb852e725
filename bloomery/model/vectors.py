"""How a model's folder says that it makes vectors of texts, and at which tokens it is read.

    first   [CLS]       mean    of all tokens       last    the last token

The files are those of sentence-transformers, which so opens the folder with equal vectors: the network, its pooling,
and the length brought to one.
"""

import json
from pathlib import Path

from bloomery.core.artifacts import write_atomic
from bloomery.core.errors import InputError
from bloomery.model.weight_files import read_json

MODULES, POOLING = "modules.json", "1_Pooling/config.json"
MODES = {"first": "pooling_mode_cls_token", "mean": "pooling_mode_mean_tokens", "last": "pooling_mode_lasttoken"}
PARTS = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))


def save_pooling(folder: Path, pooling: str, *, width: int, context: int) -> None:
    """Write beside a model how its states become one vector."""
    folder = Path(folder)
    (folder / POOLING).parent.mkdir(parents=True, exist_ok=True)
    (folder / PARTS[-1][0]).mkdir(exist_ok=True)
    write_atomic(folder / POOLING, json.dumps(
        {"word_embedding_dimension": width, "include_prompt": True} |
        {mode: name == pooling for name, mode in MODES.items()}, indent=1))
    write_atomic(folder / "sentence_bert_config.json", json.dumps({"max_seq_length": context, "do_lower_case": False}))
    write_atomic(folder / MODULES, json.dumps(
        [{"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
         for number, (path, kind) in enumerate(PARTS)], indent=1))


def pooling_in(folder: Path) -> str | None:
    """Where a folder's texts are read, None where it was not made for that; `InputError` for a way we do not have."""
    path = Path(folder) / POOLING
    if not path.is_file():
        return None
    said = read_json(path)
    found = [mode for mode, chosen in said.items() if mode.startswith("pooling_mode_") and chosen is True]
    name = next((name for name, mode in MODES.items() if found == [mode]), None) or \
        {"cls": "first", "mean": "mean", "lasttoken": "last"}.get(said.get("pooling_mode", ""))
    if name is None:
        raise InputError("texts are read in a way that is not known here", where=str(path), why=", ".join(found),
                         hint=f"one of {', '.join(MODES.values())}")
    return name
