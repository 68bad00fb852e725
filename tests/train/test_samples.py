"""Sampled text: made on time, kept over a resume, and without any influence on training."""

import pytest
import torch

from bloomery.core.errors import InputError
from bloomery.core.metrics import read_metrics
from bloomery.data.batch import rectangle
from bloomery.generate.preview import preview
from bloomery.generate.request import Completion
from bloomery.generate.sampling import Token
from bloomery.model.config import ModelConfig
from bloomery.model.transformer import Transformer
from bloomery.text.chat import Renderer
from bloomery.text.tokenizer import train_tokenizer
from bloomery.train.loop import fit
from bloomery.train.objective import causal_lm
from bloomery.train.optim import OptimizerConfig
from bloomery.train.samples import sample_every
from bloomery.train.state import fresh

TOKENIZER = train_tokenizer(["one two three four five six seven eight"] * 4, vocabulary=280)
SHAPE = ModelConfig(vocabulary=280, context=32, depth=1, width=16, heads=1, kv_heads=1, head_width=16, hidden=16)
DATA = torch.randint(0, 280, (20, 17), generator=torch.Generator().manual_seed(0))


def trained(*hooks, steps=6, model=None):
    state = fresh(model or Transformer(SHAPE), OptimizerConfig(), steps=steps)
    fit(state, lambda step: [rectangle(DATA[4 * (step % 5):][:4])], causal_lm, hooks)
    return state.model


def test_text_is_written_on_time_and_changes_nothing(tmp_path, capsys):
    alone = trained()
    before = torch.get_rng_state()
    write = preview(["one two", "seven"], TOKENIZER, context=32, max_tokens=6)
    beside = trained(sample_every(4, write, tmp_path))
    assert all(map(torch.equal, alone.parameters(), beside.parameters()))
    assert torch.equal(before, torch.get_rng_state())
    rows = read_metrics(tmp_path / "samples.jsonl")
    assert [(row["step"], row["prompt"]) for row in rows] == [(s, p) for s in (4, 6) for p in ("one two", "seven")]
    assert [row["text"] for row in rows[2:]] == [row["text"] for row in write(beside)]     # the seed names the text
    assert '4: "one two" -> ' in capsys.readouterr().err


def test_a_resume_keeps_what_it_stands_on(tmp_path):
    write = preview(["one"], TOKENIZER, context=32, max_tokens=3)
    trained(sample_every(2, write, tmp_path))
    trained(sample_every(3, write, tmp_path, resume_step=4))
    assert [row["step"] for row in read_metrics(tmp_path / "samples.jsonl")] == [2, 4, 3, 6]


def test_a_chat_model_is_asked_and_its_turn_ends(monkeypatch):
    model, seen, six = Transformer(SHAPE), [], [Token(id, -1.0, -1.0) for id in TOKENIZER.encode("six")]
    monkeypatch.setattr("bloomery.generate.preview.complete", lambda model, ids, **options:
                        seen.append((ids, options["ends"])) or [Completion(six)])
    assert preview(["hi"], Renderer(TOKENIZER), context=64)(model) == [{"prompt": "hi", "text": "six"}]
    (ids,), ends = seen[0]
    assert TOKENIZER.decode(ids, keep_control=True).endswith("user\nhi<|im_end|>\n<|im_start|>assistant\n")
    assert ends == {TOKENIZER.eos, TOKENIZER.turn_end}


def test_a_prompt_without_room_is_refused_before_training():
    with pytest.raises(InputError, match="does not fit"):
        preview(["one " * 40], TOKENIZER, context=32)
