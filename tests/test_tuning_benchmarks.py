"""Comparisons of fine-tuning: lengths and order, floors, what is trained, and steps that transformers takes too."""

import itertools

import pytest
import torch
import transformers

from benchmarks import __main__ as command
from benchmarks import lora, sft, tuning
from benchmarks.harness import PASSED, Options, equal_steps
from bloomery.model.presets import sized

TINY = sized(1, vocabulary=300, context=64, width=32, heads=2, kv_heads=1, hidden=64)
WORK = {"prompts": [5, 20, 3, 9, 12, 6, 4, 7], "completions": [4, 3, 9, 15, 2, 8, 6, 5], "rows": 2}
LENGTHS = [a + b for a, b in zip(WORK["prompts"], WORK["completions"], strict=True)]


@pytest.fixture(scope="module")
def spec(tmp_path_factory) -> dict:                                                      # noqa: ANN001
    folder = sft.export(TINY, tmp_path_factory.mktemp("model"))
    return {"folder": str(folder), "adapter": None, "precision": "fp32"} | WORK


def test_lengths_have_the_mean_and_the_spread_that_are_asked_for():
    for spread, (least, most) in {"high": (0.55, 0.85), "low": (0.25, 0.35)}.items():
        drawn = torch.tensor(sft.work(sft.SPREADS[spread], steps=200, rows=8, quick=False)["prompts"]).double()
        assert 145 < drawn.mean() < 165 and least < drawn.std() / drawn.mean() < most
        assert drawn.min() >= 4 and drawn.max() <= 640


def test_every_example_is_seen_once_in_order_or_beside_those_of_its_length():
    assert tuning.order(WORK) == [[0, 1], [2, 3], [4, 5], [6, 7]]
    grouped = tuning.order(WORK | {"grouped": True})
    assert sorted(itertools.chain(*grouped)) == list(range(8))
    assert sum(2 * max(LENGTHS[i] for i in step) for step in grouped) < sum(
        2 * max(LENGTHS[i] for i in step) for step in tuning.order(WORK))
    assert sft.useful(WORK | {"grouped": True}) > sft.useful(WORK) == pytest.approx(sum(LENGTHS) / 146)
    assert tuning.timed(WORK) == [[6, 7]]                       # three steps warm up


def test_the_rate_is_of_useful_tokens_after_the_warm_up():
    said = tuning.answer(WORK, [1.0, 2.0, 3.0, 5.0], [], [])
    assert said["seconds"] == 2 and said["rate"] == (LENGTHS[6] + LENGTHS[7]) / 2


def test_the_floor_counts_padding_and_unused_scores_for_the_peer_only():
    head, rest = TINY.vocabulary * TINY.width, TINY.parameters() - TINY.tables() - TINY.vocabulary * TINY.width
    width = TINY.heads * TINY.head_width
    ours, peer = (22 * sft.floor(TINY, WORK, padded=padded) for padded in (False, True))
    assert ours == pytest.approx(6 * rest * (10 + 12) + 6 * head * (6 + 5) + 6 * width * (10**2 + 12**2))
    assert peer == pytest.approx(6 * rest * 24 + 6 * head * 24 + 6 * width * 2 * 12**2)
    again = 22 * sft.floor(TINY, WORK, padded=True, checkpointed=True)
    assert again == pytest.approx(peer + 2 * (rest * 24 + width * 2 * 12**2))
    frozen = 22 * sft.floor(TINY, WORK, padded=False, adapter=100)
    assert frozen == pytest.approx((4 * rest + 600) * 22 + 4 * head * 11 + 6 * width * 244)


def test_ours_takes_the_steps_that_transformers_takes_in_padded_rows(spec):
    model = transformers.AutoModelForCausalLM.from_pretrained(spec["folder"], dtype=torch.float32)
    matrices, vectors = ([p for p in model.parameters() if (p.dim() > 1) is wanted] for wanted in (True, False))
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0}],
                                  lr=tuning.RATE, betas=(0.9, 0.95), eps=1e-8)
    found, peer = tuning.examples(spec, 300), {"losses": [], "grad_norms": []}
    for step in tuning.order(spec):
        longest = max(LENGTHS[i] for i in step)
        ids, mask, labels = (torch.tensor([row + [fill] * (longest - len(row)) for row in rows]) for fill, rows in (
            (0, [found[i][0] + found[i][1] for i in step]), (0, [[1] * LENGTHS[i] for i in step]),
            (-100, [[-100] * len(found[i][0]) + found[i][1] for i in step])))
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        peer["losses"].append(float(loss.detach()))
        peer["grad_norms"].append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)))
        optimizer.step()
    ours, around = tuning.ours(spec), tuning.borrowed(spec)
    assert equal_steps(ours, peer) == PASSED and equal_steps(around, peer) == PASSED
    assert len(set(ours["losses"])) == 4
    other = tuning.ours(spec | {"prompts": [p - 1 for p in WORK["prompts"]],
                                "completions": [c + 1 for c in WORK["completions"]]})
    assert equal_steps(other, peer).startswith("failed")        # one token more is trained: the gate sees it


def test_an_adapter_that_both_sides_read_learns_and_nothing_else_does(spec, tmp_path):
    weights = lora.draw(spec["folder"], tmp_path, rank=4)
    width, kv, hidden = TINY.width, TINY.kv_heads * TINY.head_width, TINY.hidden
    assert weights == 4 * (2 * (width + width) + 2 * (width + kv) + 3 * (width + hidden))
    full, adapted = tuning.ours(spec), tuning.ours(spec | {"adapter": str(tmp_path)})
    assert adapted["losses"][0] != full["losses"][0]            # what was drawn counts from the first step on
    assert 0 < adapted["grad_norms"][0] < full["grad_norms"][0]


@pytest.fixture
def sides(monkeypatch):                                                                  # noqa: ANN001, ANN201
    """Both sides without processes of their own; what TRL is asked for is remembered."""
    asked: list[dict] = []

    def fresh(options: Options, module: str, which: str, given: str, *, peer: bool) -> dict:
        asked.append(command.json.loads(given) | {"which": which, "peer": peer})
        slow = 3.0 if which == "trl" else 1.0
        slow -= asked[-1]["grouped"]
        return {"losses": [2.0, 1.5], "grad_norms": [1.0, 1.0], "rate": 9 / slow, "seconds": slow, "cold": 1.0}

    monkeypatch.setattr(sft, "fresh", fresh)
    monkeypatch.setattr(sft, "peak", lambda dtype: 1e12)
    return asked


def test_the_rows_have_the_names_others_read_and_the_headline_is_against_the_best_settings(sides):
    rows = list(command.CASES["sft"](Options(pairs=1, quick=True)))
    assert [row.name for row in rows] == [f"{kind}{more}" for kind in ("high", "low")
                                          for more in ("", ", default", ", transformers' forward")]
    assert all(row.gate == PASSED and row.ratio == 3 for row in rows)
    assert {each["which"] for each in sides} == {"ours", "trl", "borrowed"}
    assert all(each["peer"] is (each["which"] != "ours") for each in sides)
    best = sft.tuned(lambda which, **given: {"rate": 1 + given["grouped"]}, {}, quick=False)
    assert best == {"workers": 0, "grouped": True}


def test_both_sides_of_lora_start_from_one_adapter(sides):
    rows = list(command.CASES["lora"](Options(pairs=1, quick=True)))
    assert [row.name for row in rows] == ["lora, high", "lora, high, default", "lora, low", "lora, low, default"]
    assert len({each["adapter"] for each in sides}) == 1 and sides[0]["adapter"]
    assert all(row.floor > 1 for row in rows)


def test_without_trl_nothing_is_compared(monkeypatch):
    monkeypatch.setattr(sft, "fresh", lambda *given, **named: {"not_run": "No module named 'trl'"})
    rows = list(sft.run(Options(pairs=1, quick=True)))
    assert [row.name for row in rows] == ["high", "low"]
    assert all(row.gate == "not run: No module named 'trl'" and row.ratio is None for row in rows)
