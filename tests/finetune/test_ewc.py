"""The Fisher information: what it says against the expectation written out, and that it holds what a model knew."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from bloomery.core.errors import InputError
from bloomery.core.metrics import read_metrics
from bloomery.data.batch import Batch, forest, sequence
from bloomery.data.shards import ShardWriter
from bloomery.finetune import ewc
from bloomery.losses.parallel_ce import linear_logp
from bloomery.model.config import ModelConfig
from bloomery.model.forest import Forest
from bloomery.model.store import load_model, save_model
from bloomery.model.transformer import Transformer
from bloomery.pipeline import run_verb
from bloomery.text.tokenizer import train_tokenizer
from bloomery.train.loop import train_step
from bloomery.train.optim import OptimizerConfig
from bloomery.train.retention import ANCHOR, FISHER, EwcConfig, RetentionConfig, retain
from bloomery.train.state import State, fresh

TINY = ModelConfig(vocabulary=7, context=8, depth=1, width=8, heads=1, kv_heads=1, head_width=8, hidden=8)
EXAMPLES = [forest([sequence(ids, [True] * len(ids))]) for ids in ([1, 2, 3, 4], [5, 6, 0, 1, 2, 3])]


def flat(fisher: dict) -> torch.Tensor:
    return torch.cat([f.flatten() for f in fisher.values()])


def score(model: Transformer, batch: Batch, targets: torch.Tensor) -> list[torch.Tensor]:
    """Gradients of log p of each target at its position, one vector a position."""
    hidden = model(batch.ids, batch.positions, Forest(batch.segments))
    logp = linear_logp(hidden, model.head.weight, targets)
    return [torch.cat([g.flatten() for g in torch.autograd.grad(each, [*model.parameters()], retain_graph=True)])
            for each in logp]


@pytest.fixture(scope="module")
def model() -> Transformer:
    return Transformer(TINY, seed=0)


def test_drawn_tokens_give_the_expectation_over_all_of_them(model):
    """sum over positions and over all tokens y of p(y) (d log p(y))^2, written out, against the mean of many draws."""
    exact, tokens = 0.0, 0
    for batch in EXAMPLES:
        hidden = model(batch.ids, batch.positions, Forest(batch.segments)).detach()
        p = model.logits(hidden).softmax(-1).detach()
        for y in range(TINY.vocabulary):
            scores = score(model, batch, torch.full_like(batch.targets, y))
            exact = exact + sum(p[t, y] * s ** 2 for t, s in enumerate(scores))
        tokens += len(batch.ids)
    exact = exact / tokens
    drawn = torch.stack([flat(ewc.diagonal(model, EXAMPLES, kind="true", seed=seed)) for seed in range(400)]).mean(0)
    assert float(drawn.sum() / exact.sum()) == pytest.approx(1, abs=0.1)
    assert float(torch.corrcoef(torch.stack((drawn, exact)))[0, 1]) > 0.97
    squared_mean = sum(sum(score(model, b, b.targets)) for b in EXAMPLES) ** 2 / tokens
    assert not torch.allclose(squared_mean, drawn, rtol=0.3)


def test_the_empirical_one_squares_each_text(model):
    expected = sum(sum(score(model, b, b.targets)) ** 2 for b in EXAMPLES) / sum(len(b.ids) for b in EXAMPLES)
    torch.testing.assert_close(flat(ewc.diagonal(model, EXAMPLES, kind="empirical")), expected, atol=1e-6, rtol=1e-4)


def test_draws_are_named_by_the_seed(model):
    one, same, other = (flat(ewc.diagonal(model, EXAMPLES, kind="true", seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert bool((one >= 0).all()) and one.dtype == torch.float32


WORDS = ("north south east west up down left right", "red green blue white black grey pink brown")


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A model, its tokenizer, shards of directions and of colours, and a conversation."""
    root = tmp_path_factory.mktemp("ewc")
    generator = np.random.default_rng(0)
    texts = [[" ".join(generator.choice(words.split(), 12)) for _ in range(30)] for words in WORDS]
    tokenizer = train_tokenizer(sum(texts, []), vocabulary=300)
    for name, part in zip(("directions", "colours"), texts, strict=True):
        (root / name).mkdir()
        for split in ("train", "validation"):
            writer = ShardWriter(root / name, split, eos=tokenizer.eos, vocabulary=tokenizer.size)
            for text in part:
                writer.add(tokenizer.encode(text), len(text))
            writer.close()
        (root / name / "shards.json").write_text(json.dumps({"vocabulary": tokenizer.size, "eos": tokenizer.eos}))
    model = Transformer(ModelConfig(vocabulary=tokenizer.size, context=32, depth=2, width=32, heads=2, kv_heads=1,
                                    head_width=16, hidden=48), seed=0)
    save_model(learned(model, root / "directions", steps=60)[0].model, root / "model", eos=[tokenizer.eos])
    tokenizer.save(root / "model", context=32, chat_template="")
    rows = [{"prompt": "where", "completion": text[:12]} for text in texts[0]]
    named = [{"prompt": "name", "completion": text[:12]} for text in texts[1]]
    (root / "named.jsonl").write_text("".join(json.dumps(row) + "\n" for row in named))
    (root / "said.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def learned(model: Transformer, shards: Path, *, steps: int, **options) -> tuple[State, list[dict]]:
    """Train on some shards with what `options` keep; metrics of every step."""
    stream = ewc.windows(ewc.shard_of(str(shards), "train", model), context=32, rows=8, micro_rows=8, seed=0)
    kept = retain(RetentionConfig(**options), model)
    state = fresh(model, OptimizerConfig(lr=1e-2, warmup=0.0), steps=steps)
    state.penalty = kept.penalty
    return state, [train_step(state, stream(i), kept.objective, 1.0).metrics for i in range(steps)]


def measured(model: Transformer, shards: Path) -> float:
    return retain(RetentionConfig(corpus=str(shards)), model).measure(model)["base_bpb"]


def test_a_penalty_keeps_what_the_fisher_says_matters(home, tmp_path):
    """Colours are learned either way; directions are forgotten without the penalty and kept better with it."""
    made = run_verb("fisher", [f"model={home / 'model'}", f"data={home / 'directions'}", f"out={tmp_path / 'fisher'}",
                               "precision=fp32"])
    assert made.metrics["kind"] == "true" and made.metrics["tokens"] == 32 * made.metrics["texts"]
    assert 0 < made.metrics["mean_fisher"] < made.metrics["largest_fisher"]
    known = measured(load_model(home / "model"), home / "directions")
    unknown = measured(load_model(home / "model"), home / "colours")
    after = {}
    for weight in (0.0, 10.0):
        state, metrics = learned(load_model(home / "model"), home / "colours", steps=40,
                                 ewc=EwcConfig(fisher=str(tmp_path / "fisher"), weight=weight))
        after[weight] = measured(state.model, home / "directions")
        assert measured(state.model, home / "colours") < 0.8 * unknown
        assert not weight or metrics[0]["ewc"] == 0 < metrics[-1]["ewc"]
    assert after[10.0] - known < 0.7 * (after[0.0] - known)


def test_fine_tuning_keeps_what_it_is_asked_to(home, tmp_path):
    """Everything against forgetting at once, in the stage: each tells its metric, and less is forgotten."""
    run_verb("fisher", [f"model={home / 'model'}", f"data={home / 'directions'}", f"out={tmp_path / 'fisher'}",
                        "precision=fp32"])
    asked = [f"model={home / 'model'}", f"data={home / 'named.jsonl'}", "steps=24", "examples=8", "precision=fp32",
             "optimizer.lr=1e-2", "validate_every=4", f"retention.corpus={home / 'directions'}", "beside_base=0",
             "template=chatml"]
    plain = run_verb("sft", [*asked, f"out={tmp_path / 'plain'}"]).metrics
    kept = run_verb("sft", [*asked, f"out={tmp_path / 'kept'}", f"retention.ewc.fisher={tmp_path / 'fisher'}",
                            "retention.ewc.weight=10", "retention.kl.weight=0.1", "retention.label_smoothing=0.05",
                            f"retention.lm.data={home / 'directions'}", "early_stopping.metric=base_bpb",
                            "early_stopping.patience=9"]).metrics
    rows = read_metrics(tmp_path / "kept" / "metrics.jsonl")
    assert {"loss", "kl", "ewc", "lm_loss"} <= set().union(*rows) and rows[0]["base_bpb"] < plain["base_bpb"]
    told = [row["base_bpb"] for row in rows if "base_bpb" in row]
    assert told[-1] - told[0] < 0.2 * (plain["base_bpb"] - told[0])
    assert kept["base_bpb"] == kept["best_base_bpb"] == min(told)


def test_the_weights_it_was_measured_at_are_kept_beside_it(home, tmp_path):
    for kind in ("true", "empirical"):
        out = tmp_path / kind
        run_verb("fisher", [f"model={home / 'model'}", f"data={home / 'said.jsonl'}", f"out={out}", f"kind={kind}",
                            "precision=fp32", "examples=5"])
        weights = dict(load_model(home / "model").named_parameters())
        anchor, fisher = load_file(out / ANCHOR), load_file(out / FISHER)
        assert anchor.keys() == fisher.keys() == weights.keys()
        assert all(torch.equal(anchor[name], weight) for name, weight in weights.items())
        about = json.loads((out / "fisher.json").read_text())
        assert about["kind"] == kind and about["texts"] == 5 and about["tokens"] < 5 * 32       # answers alone count
    assert not torch.equal(load_file(tmp_path / "true" / FISHER)["norm.weight"], fisher["norm.weight"])


def test_what_it_costs_is_foretold(home):
    config = ewc.Config(model=str(home / "model"), data=str(home / "directions"), examples=10)
    assert ewc.forecast(config)["tokens"] == 320
    assert ewc.forecast(ewc.Config(model="not/made/yet", data="d")) == {}


def test_columns_of_other_names_are_read(home, tmp_path):
    (tmp_path / "rows.jsonl").write_text(json.dumps({"asked": "where?", "said": "north"}) + "\n")
    config = ewc.Config(model=str(home / "model"), data=str(tmp_path / "rows.jsonl"),
                        columns={"asked": "prompt", "said": "completion"})
    assert len(ewc.texts(config, load_model(home / "model"))) == 1


def test_texts_it_cannot_be_measured_on_are_refused(home, tmp_path):
    (tmp_path / "long.jsonl").write_text(json.dumps({"prompt": "where " * 40, "completion": "north"}) + "\n")
    with pytest.raises(InputError, match="nothing to measure on"):
        ewc.texts(ewc.Config(model=str(home / "model"), data=str(tmp_path / "long.jsonl")), load_model(home / "model"))
    with pytest.raises(InputError, match="do not belong together"):
        ewc.texts(ewc.Config(model=str(home / "model"), data=str(home / "directions")), Transformer(TINY, seed=0))
