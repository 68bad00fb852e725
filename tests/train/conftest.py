"""A corpus small enough to be trained on in seconds."""

import json
from pathlib import Path

import pytest

from bloomery.data.shards import SPLITS, ShardWriter
from bloomery.text.templates import TEMPLATES
from bloomery.text.tokenizer import train_tokenizer

TEXTS = [" ".join(f"{a} plus {b} is {a + b}." for b in range(20)) for a in range(40)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """Shards and a tokenizer made without stages."""
    folder = tmp_path_factory.mktemp("corpus")
    tokenizer = train_tokenizer(TEXTS, vocabulary=300)
    tokenizer.save(folder, context=32, chat_template=TEMPLATES["chatml"].jinja())
    for split in SPLITS:
        writer = ShardWriter(folder, split, eos=tokenizer.eos, vocabulary=tokenizer.size)
        for text in TEXTS if split == "train" else TEXTS[::10]:
            writer.add(tokenizer.encode(text), len(text))
        writer.close()
    (folder / "shards.json").write_text(json.dumps({"vocabulary": tokenizer.size, "eos": tokenizer.eos}))
    return folder
