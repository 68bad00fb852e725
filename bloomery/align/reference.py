"""The reference's log-probabilities: made once, and kept in a file that the hash of model and data names.

Another model, other weights, another rendering or a cut somewhere else is another name, so what is found is right.
"""

from hashlib import sha256
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bloomery.align.pairs import Items
from bloomery.core.artifacts import fingerprint
from bloomery.data.likelihood import score_answers
from bloomery.model.transformer import Transformer


def score_pairs(model: Transformer, items: Items, micro_tokens: int, *,
                tail: float = 1.0) -> Tensor:
    """log pi(y|x) of both answers of many items, (P, 2) in their order."""
    scores = score_answers(model, [item.prompt for item in items], [item.answers for item in items],
                           micro_tokens=micro_tokens, tail=tail)
    return torch.tensor(scores)


def weights_hash(model: Transformer) -> str:
    """A hash of every weight and of what they are computed in."""
    found = sha256(str(model.compute).encode())
    for name, weight in sorted(model.state_dict().items()):
        found.update(name.encode())
        found.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return found.hexdigest()


def reference_logps(model: Transformer, items: Items, folder: Path, micro_tokens: int, *,
                    tail: float = 1.0) -> Tensor:
    """The reference's log-probabilities (P, 2), from a file in `folder` if the same model has seen the same items."""
    key = fingerprint([weights_hash(model), tail, [(item.prompt, item.answers) for item in items]])
    path = folder / f"reference-{key}.safetensors"
    if path.exists():
        return load_file(path)["logps"]
    logps = score_pairs(model, items, micro_tokens, tail=tail)
    temporary = path.with_name(f".tmp-{path.name}")
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"logps": logps}, temporary)
    temporary.replace(path)
    return logps
