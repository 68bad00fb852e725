"""A small world whose sentences can be judged, and encoders and decoders that have not learned anything yet."""

import json
import random
from pathlib import Path

from bloomery.model.config import ModelConfig
from bloomery.model.presets import BERT, MODERNBERT
from bloomery.model.store import save_model
from bloomery.model.transformer import Transformer
from bloomery.text.tokenizer import train_tokenizer
from bloomery.text.wordpiece import wordpiece

GOOD, BAD = ("good", "great", "fine"), ("bad", "awful", "poor")
NOUNS = ("film", "story", "cast", "end")
WORDS = [*GOOD, *BAD, *NOUNS, "the", "was", "which", "is", "named"]
SIZES = {"context": 40, "depth": 2, "width": 32, "heads": 2, "kv_heads": 2, "head_width": 16, "hidden": 64}


def model_folder(folder: Path, kind: str) -> Path:
    """A random `bert`, `modern` or `decoder` with its tokenizer."""
    text = [" ".join(WORDS) for _ in range(5)]
    tokenizer = train_tokenizer(text, vocabulary=280) if kind == "decoder" else wordpiece(text, vocabulary=80)
    style = {"bert": BERT, "modern": MODERNBERT | {"window": 9, "window_layers": (1,)}, "decoder": {}}[kind]
    save_model(Transformer(ModelConfig(vocabulary=tokenizer.size, **SIZES, **style)), folder)
    tokenizer.save(folder, context=SIZES["context"])
    return folder


def rows(task: str, count: int = 240) -> list[dict]:
    draw = random.Random(task)

    def sentence() -> tuple[str, bool]:
        good = draw.random() < 0.5
        return f"the {draw.choice(NOUNS)} was {draw.choice(GOOD if good else BAD)}", good

    def one() -> dict:
        (text, good), (other, too) = sentence(), sentence()
        if task == "pair":
            return {"premise": text, "hypothesis": f"named {good}", "label": int(good)}
        if task == "multi":
            said = (("up", good or too), ("down", not (good and too)))
            return {"text": f"{text} {other}", "labels": [name for name, yes in said if yes]}
        if task == "regression":
            return {"text": text, "label": 1.5 if good else -0.5}
        if task == "tagging":
            return {"tokens": text.split(), "tags": ["B-N" if word in NOUNS else "O" for word in text.split()]}
        if task == "choice":
            right = draw.randrange(2)
            pair = [draw.choice(BAD), draw.choice(GOOD)]
            return {"question": "which is good", "choices": pair[::1 if right else -1], "answer": right}
        if task == "qa":
            name = draw.choice(NOUNS)
            before = " ".join(draw.choice(BAD) for _ in range(draw.randrange(1, 6)))
            context = f"{before} named {name} {before}"
            return {"question": "which is named", "context": context, "title": str(draw.randrange(20)),
                    "answers": {"text": [name], "answer_start": [context.index(name)]}}
        return {"text": text, "label": "pos" if good else "neg"}

    return [one() for _ in range(count)]


def write_rows(path: Path, found: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in found))
    return path
