"""A tiny model that answers and mostly ends, a reward model, and prompts with known answers; made once."""

import atexit
import json
import shutil
import signal
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from bloomery.core.files import write_jsonl
from bloomery.instruct import run as sft
from bloomery.model.config import ModelConfig
from bloomery.model.scalar import ScalarModel, save_scalar
from bloomery.model.store import save_model
from bloomery.model.transformer import Transformer
from bloomery.text.templates import TEMPLATES
from bloomery.text.tokenizer import Tokenizer, train_tokenizer

SUMS = [(f"What is {a} + {b}?", str(a + b)) for a in range(4) for b in range(3)]
CHATML = TEMPLATES["chatml"].jinja()


@cache
def room() -> Path:
    folder = Path(mkdtemp(prefix="bloomery-"))
    atexit.register(shutil.rmtree, folder)
    return folder


@cache
def tokenizer() -> Tokenizer:
    return train_tokenizer([json.dumps(row) for row in SUMS], vocabulary=300)


def config() -> ModelConfig:
    return ModelConfig(vocabulary=tokenizer().size, context=64, depth=2, width=32, heads=4, kv_heads=2, head_width=8,
                       hidden=48)


@cache
def prompts() -> Path:
    path = room() / "prompts.jsonl"
    write_jsonl(path, [{"prompt": asked, "answer": known, "id": f"sum {i}"} for i, (asked, known) in enumerate(SUMS)])
    return path


@cache
def chats() -> Path:
    path = room() / "chats.jsonl"
    write_jsonl(path, [{"prompt": asked, "completion": known, "id": f"chat {i}"}
                       for i, (asked, known) in enumerate(SUMS)])
    return path


@cache
def policy() -> Path:
    """Fine-tuned just long enough to answer with short numbers, often wrong."""
    base, out = room() / "base", room() / "policy"
    save_model(Transformer(config(), seed=1), base, bos=tokenizer().eos, eos=[tokenizer().eos])
    tokenizer().save(base, context=64, chat_template=CHATML)
    out.mkdir()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    sft.run(sft.Config(model=str(base), data=str(chats()), steps=20, examples=12, precision="fp32", beside_base=0,
                       optimizer={"lr": 1e-2}), out)
    for number, handler in before.items():
        signal.signal(number, handler)
    return out


@cache
def reward(seed: int = 3) -> Path:
    folder = room() / f"reward{seed}"
    save_scalar(ScalarModel(Transformer(config(), seed=seed), seed=seed), folder)
    tokenizer().save(folder, context=64, chat_template=CHATML)
    return folder


@cache
def shortest() -> Path:
    """A reward of one's own: the shorter, the better, and among the short ones those with large letters."""
    path = room() / "shortest.py"
    path.write_text("def score(problem, answer):\n    return -len(answer) + sum(map(ord, answer)) / 1e4\n",
                    encoding="utf-8")
    return path
