"""A base small enough to be fine-tuned in a second, and a file of conversations."""

import json
from pathlib import Path

import pytest
from instruct_data import dialogues

from bloomery.core.files import write_jsonl
from bloomery.data.formats import conversation_row
from bloomery.model.config import ModelConfig
from bloomery.model.store import save_model
from bloomery.model.transformer import Transformer
from bloomery.text.templates import TEMPLATES
from bloomery.text.tokenizer import train_tokenizer


@pytest.fixture(scope="session")
def base(tmp_path_factory) -> Path:
    """A model folder with random weights and a tokenizer."""
    folder = tmp_path_factory.mktemp("base")
    tokenizer = train_tokenizer([json.dumps(conversation_row(row)) for row in dialogues()], vocabulary=320)
    config = ModelConfig(vocabulary=tokenizer.size, context=96, depth=2, width=32, heads=4, kv_heads=2, head_width=8,
                         hidden=48)
    save_model(Transformer(config, seed=1), folder, bos=tokenizer.eos, eos=[tokenizer.eos])
    tokenizer.save(folder, context=96, chat_template=TEMPLATES["chatml"].jinja())
    return folder


@pytest.fixture(scope="session")
def chats(tmp_path_factory) -> Path:
    """The dialogues as a file."""
    path = tmp_path_factory.mktemp("chats") / "chats.jsonl"
    write_jsonl(path, map(conversation_row, dialogues()))
    return path
