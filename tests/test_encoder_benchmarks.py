"""The comparison of masked language modelling: masks both sides read, floors, and steps that transformers takes too."""

import pytest
import torch
import transformers

from benchmarks import __main__ as command
from benchmarks import masking, mlm, tuning
from benchmarks.generate import export
from benchmarks.harness import PASSED, Options, equal_steps

WORK = {"prompts": [9, 20, 8, 12, 15, 10, 8, 11], "completions": [0] * 8, "rows": 2}


@pytest.fixture(scope="module")
def spec(tmp_path_factory) -> dict:                                                      # noqa: ANN001
    folder = export(mlm.shape(quick=True), tmp_path_factory.mktemp("model"), loud=2.0, dtype=torch.float32)
    return {"folder": str(folder), "precision": "fp32", "given": True} | WORK


def test_given_masks_hide_some_of_a_text_and_never_its_frame():
    ids = masking.texts({"prompts": [400]}, 1000)[0]
    read, hidden = masking.given(ids, 7, 1000)
    assert (read, hidden) == masking.given(ids, 7, 1000) != masking.given(ids, 8, 1000)
    assert not hidden[0] and not hidden[-1] and 0.08 < sum(hidden) / 400 < 0.22
    assert all(a == b for a, b, hide in zip(ids, read, hidden, strict=True) if not hide)
    masks = sum(token == masking.MASK for token in read)
    assert 0.6 < masks / sum(hidden) < 0.95


def test_ours_takes_the_steps_that_transformers_takes_in_padded_rows(spec):
    model = transformers.AutoModelForMaskedLM.from_pretrained(
        spec["folder"], dtype=torch.float32, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    matrices, vectors = ([p for p in model.parameters() if (p.dim() > 1) is wanted] for wanted in (True, False))
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0}],
                                  lr=tuning.RATE, betas=(0.9, 0.95), eps=1e-8)
    found, peer = masking.texts(spec, 16_384), {"losses": [], "grad_norms": []}
    for step in tuning.order(spec):
        longest = max(spec["prompts"][i] for i in step)
        drawn = [masking.given(found[i], i, 16_384) for i in step]
        ids, mask, labels = (torch.tensor([row + [fill] * (longest - len(row)) for row in rows]) for fill, rows in (
            (0, [read for read, _ in drawn]), (0, [[1] * spec["prompts"][i] for i in step]),
            (-100, [[token if hide else -100 for token, hide in zip(found[i], hidden, strict=True)]
                    for i, (_, hidden) in zip(step, drawn, strict=True)])))
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        peer["losses"].append(float(loss.detach()))
        peer["grad_norms"].append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)))
        optimizer.step()
    assert equal_steps(masking.ours(spec), peer) == PASSED
    own = masking.ours(spec | {"given": False})                 # other masks: the gate sees it
    assert equal_steps(own, peer).startswith("failed")


def test_the_floor_counts_padding_and_unused_scores_for_the_peer_only():
    config = mlm.shape(quick=True)
    head = config.vocabulary * config.width
    body, width = config.parameters() - config.tables() - head, config.heads * config.head_width
    ours, peer = (19 * mlm.floor(config, WORK, padded=padded) for padded in (False, True))
    assert ours == pytest.approx(6 * 19 * (body + 0.15 * head) + 12 * config.depth * width * (8**2 + 11**2))
    assert peer == pytest.approx(6 * 22 * (body + head) + 12 * config.depth * width * 2 * 11**2)


def test_without_a_trainer_nothing_is_compared(monkeypatch):
    monkeypatch.setattr(mlm, "fresh", lambda *given, **named: {"not_run": "No module named 'accelerate'"})
    rows = list(command.CASES["mlm"](Options(pairs=1, quick=True)))
    assert [row.name for row in rows] == ["mlm", "mlm, default"]
    assert all(row.gate == "not run: No module named 'accelerate'" and row.ratio is None for row in rows)
