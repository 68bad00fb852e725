"""A whole run, made once, and a place to make others."""

import json

import pytest
from report_runs import (
    HOSTILE,
    Run,
    answer_rows,
    classified,
    curation_files,
    lines,
    made_card,
    preference_rows,
    read_answers,
    training_rows,
)


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory) -> list[str]:
    """Folders of all stages of a recipe, curation to evaluation."""
    run = Run(tmp_path_factory.mktemp("runs"))
    messages = [{"role": "user", "content": "What is a bloomery?"},
                {"role": "assistant", "content": "A furnace for iron."}]
    run.stage("curate", files=curation_files, config={"source": "docs", "minhash": {"bands": 14, "rows": 8}}, kept=7894)
    run.stage("instructions", "introspect", reads=("curate",), conversations=900, pairs=300, files=lambda out: (
        lines(out / "instructions.jsonl", [{"messages": messages, "task": f"task {n % 3}"} for n in range(900)]),
        lines(out / "preferences.jsonl", [
            {"prompt": messages[:1], "chosen": "A furnace.", "rejected": "A flower.", "kind": "fact"},
            {"prompt": "As text?", "chosen": "Yes.", "rejected": HOSTILE, "kind": "form"}])))
    run.stage("tokenizer", reads=("curate",), vocabulary=8192, bytes_per_token=3.71)
    run.stage("shards", reads=("tokenizer", "curate"), train_tokens=8_400_000, validation_tokens=96_000)
    run.stage("pretrain", reads=("shards", "tokenizer"), config={"model": {"depth": 8}, "steps": 900}, loss=2.71,
              files=lambda out: lines(out / "metrics.jsonl", training_rows(900, 9.0, 2.7, resumed=420)))
    run.stage("sft", reads=("pretrain", "instructions"), rows=900, config={"learning_rate": 2e-4},
              files=lambda out: lines(out / "metrics.jsonl", training_rows(200, 3.1, 1.4)))
    run.stage("dpo", reads=("sft", "instructions"), config={"loss": "dpo", "beta": 0.1},
              files=lambda out: lines(out / "metrics.jsonl", preference_rows(150)))
    run.stage("evaluate", reads=("dpo", "sft", "pretrain", "shards", "instructions"),
              files=lambda out: (out / "answers.json").write_text(json.dumps(answer_rows())),
              **{"base.val_bpb": 1.262, "base.ngram5_bpb": 1.604, "base.zstd_bpb": 1.911, "base.xz_bpb": 1.873,
                 "sft.answer_nll_base": 2.911, "sft.answer_nll": 1.402, "sft.exact_match": 0.31,
                 "dpo.preference_accuracy": 0.832, "dpo.preference_accuracy_sft": 0.611,
                 "dpo.preference_accuracy_by_kind": {"fact": 0.91, "form": 0.754}})
    run.stage("reward", reads=("evaluate",), accuracy=0.76,
              files=lambda out: (out / "card.json").write_text(json.dumps(made_card("one", "two"))))
    run.stage("reviews", "classify", reads=("reward",), config={"columns": {"review": "text", "2": "label"}},
              files=classified)
    run.stage("reader", "qa", reads=("reviews",), files=read_answers)
    return run.folders


@pytest.fixture
def new_run(tmp_path) -> Run:
    return Run(tmp_path / "runs")
