"""DoReMi moves weight to what a proxy can still learn, goes on where it was killed, and pretraining reads it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from bloomery.core.errors import InputError, Preempted
from bloomery.core.metrics import read_metrics
from bloomery.data.stream import TokenStream
from bloomery.pretrain import doremi, shards, vocabulary
from bloomery.pretrain import run as pretraining
from bloomery.pretrain.corpora import MIXTURE, open_corpora, stream
from bloomery.pretrain.doremi import HISTORY, Config, Marked, domain_update
from bloomery.text.tokenizer import load_tokenizer
from bloomery.train.hooks import stop_signal

FAST = {"precision": "fp32", "validate_every": 1000, "save_every": 4, "rows": 8, "micro_rows": 4}
SHAPE = pretraining.ModelOptions(depth=1, context=32, width=32, heads=2)


def made(module, folder: Path, **options) -> dict:
    folder.mkdir(exist_ok=True)
    return module.run(module.Config(**options), folder)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """Lists one can learn, and noise nobody can."""
    root, generator = tmp_path_factory.mktemp("domains"), np.random.default_rng(0)
    texts = {"lists": ["abcdefghij " * 30] * 60,
             "noise": ["".join(generator.choice(list("abcdefghij "), 300)) for _ in range(60)]}
    for name, own in texts.items():
        lines = [json.dumps({"text": f"{i} {text}"}) for i, text in enumerate(own)]
        (root / f"{name}.jsonl").write_text("\n".join(lines))
    (root / "all.jsonl").write_text("\n".join((root / f"{name}.jsonl").read_text() for name in texts))
    made(vocabulary, root / "tokenizer", data=str(root / "all.jsonl"), kind="characters")
    for name in texts:
        made(shards, root / name, data=str(root / f"{name}.jsonl"), tokenizer=str(root / "tokenizer"), validation=0.2)
    return root


def asked(corpus: Path, **options) -> Config:
    given = {"data": {name: str(corpus / name) for name in ("lists", "noise")}, "tokenizer": str(corpus / "tokenizer"),
             "model": SHAPE, "steps": 12}
    return Config(**FAST | given | options)


def test_the_update_by_hand():
    """(1 - c) alpha e^(eta lambda) / Z + c / K with lambda = (.5 + 0 + 1) / 3."""
    weights, scores = domain_update(np.array([0.5, 0.5]), [np.array([0.5, -0.2, 1.0]), np.array([])],
                                    np.array([9.0, 0.25]), smoothing=0.1)
    assert scores == pytest.approx([0.5, 0.25])
    assert weights == pytest.approx(0.9 * np.exp([0.5, 0.25]) / np.exp([0.5, 0.25]).sum() + 0.05)
    huge, _ = domain_update(np.array([0.5, 0.5]), [np.array([2000.0]), np.array([0.0])], np.zeros(2), smoothing=0.0)
    assert huge.tolist() == [1.0, 0.0]
    assert domain_update(huge, [np.zeros(1)] * 2, np.zeros(2), smoothing=0.5)[0].tolist() == [0.75, 0.25]
    with pytest.raises(ValueError, match="not be below 0"):
        domain_update(np.array([-1.0, 2.0]), [np.zeros(1)] * 2, np.zeros(2))


def test_tokens_know_their_domain(corpus):
    config = asked(corpus)
    corpora = open_corpora(config, load_tokenizer(corpus / "tokenizer"), config.tokenizer)
    plain: TokenStream = stream(config, corpora, 32)
    batches = Marked(plain)(3)
    assert len(batches) == 2 and batches.count == 8 * 32
    for batch in batches:
        assert len(batch.domain) == len(batch.ids) and set(batch.domain.tolist()) <= {0, 1}
    runs = plain.runs(3, 0, 4)
    expected = [plain.domains.index(domain) for domain, (a, b) in runs for _ in range(int((b - a).sum()))]
    assert batches[0].domain.tolist() == expected


def test_weight_moves_to_what_can_be_learned(corpus, tmp_path):
    """Noise is as hard for the reference as for the proxy; at equal speed lists are what the proxy is behind in."""
    torch.manual_seed(0)
    found = made(doremi, tmp_path, **dict(asked(corpus, steps=30, eta=3.0, mixture={"lists": 3, "noise": 1})))
    about = json.loads((tmp_path / MIXTURE).read_text())
    assert about["base"] == {"lists": 0.75, "noise": 0.25}
    assert about["weights"]["lists"] == pytest.approx(found["weight/lists"]) and found["weight/lists"] > 0.55
    assert sum(about["weights"].values()) == pytest.approx(1)
    history = np.load(tmp_path / HISTORY)
    assert history.shape == (31, 2, 2) and history[:, 0].sum(axis=1) == pytest.approx(np.ones(31))
    rows = read_metrics(tmp_path / "proxy" / "metrics.jsonl")
    logged = [row["weight/lists"] for row in rows if "weight/lists" in row]
    assert logged[-1] == pytest.approx(history[29, 0, 0], rel=1e-4)


def test_a_killed_run_goes_on_to_the_same_weights(corpus, tmp_path, monkeypatch, handlers):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    expected = made(doremi, whole, **dict(asked(corpus)))
    update, calls = doremi.domain_update, []

    def stopping(*given, **options):
        calls.append(1)
        if len(calls) == 6:
            stop_signal.reason = "asked to"
        return update(*given, **options)

    monkeypatch.setattr(doremi, "domain_update", stopping)
    with pytest.raises(Preempted):
        made(doremi, cut, **dict(asked(corpus)))
    assert len(calls) == 6
    assert made(doremi, cut, **dict(asked(corpus))) == expected
    assert (cut / HISTORY).read_bytes() == (whole / HISTORY).read_bytes()


def test_pretraining_reads_the_weights(corpus, tmp_path):
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / MIXTURE).write_text(json.dumps({"weights": {"lists": 0.75, "noise": 0.25}}))
    (tmp_path / "plain.json").write_text('{"lists": 3, "noise": 1}')
    (tmp_path / "wrong.json").write_text('{"lists": 3, "web": 1}')
    given = dict(asked(corpus, steps=3))
    given = {name: given[name] for name in pretraining.Config.model_fields if name in given}
    for name in ("weights", "plain.json"):
        found = made(pretraining, tmp_path / f"with-{name}", **given | {"mixture": str(tmp_path / name)})
        assert (found["samples/lists"], found["samples/noise"]) == (18, 6)
    with pytest.raises(InputError, match="no weights of domains") as caught:
        made(pretraining, tmp_path / "none", **given | {"mixture": str(tmp_path / "wrong.json")})
    assert "mixture weighs lists, web" in caught.value.why


def test_one_domain_has_no_mixture(corpus):
    with pytest.raises(ValidationError, match="several domains"):
        asked(corpus, data=str(corpus / "lists"))
