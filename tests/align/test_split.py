"""Held-out questions: whole ones, of every source, and the chosen answers beside the pairs."""

import pytest
from miniature import write_rows

from bloomery.align.split import Config, run
from bloomery.core.errors import InputError
from bloomery.core.files import Quarantine
from bloomery.data.formats import conversations, preferences
from bloomery.data.splits import question


@pytest.fixture
def sources(tmp_path):                                                                    # noqa: ANN001, ANN201
    """Two files of pairs; the second continues dialogues of the first."""
    rows = [{"prompt": f"what is {n}?", "chosen": f"it is {n}", "rejected": "no"} for n in range(40)]
    longer = [{"prompt": [{"role": "user", "content": f"what is {n}?"}, {"role": "assistant", "content": "a number"},
                          {"role": "user", "content": "which?"}], "chosen": "this", "rejected": "that"}
              for n in range(0, 40, 2)]
    return {"short": str(write_rows(tmp_path / "short.jsonl", rows)),
            "long": str(write_rows(tmp_path / "long.jsonl", longer))}


def test_a_question_is_on_one_side_only_with_all_its_continuations(sources, tmp_path):
    told = run(Config(sources=sources, held_out=0.3), tmp_path)
    learned, spare = (preferences(str(tmp_path / f"preferences{end}.jsonl"), Quarantine()) for end in ("", "_heldout"))
    assert (told["pairs"], told["held_out"]) == (len(learned), len(spare)) and len(learned) + len(spare) == 60
    assert not {question(row) for row in learned} & {question(row) for row in spare}
    assert 5 < len(spare) < 30 and {row.kind for row in learned} == {row.kind for row in spare} == {"short", "long"}
    shown = conversations(str(tmp_path / "instructions_heldout.jsonl"), Quarantine())
    assert [(row.messages[:-1], row.messages[-1].content) for row in shown] == [(r.prompt, r.chosen) for r in spare]


def test_the_seed_names_the_split(sources, tmp_path):
    found = []
    for seed in (0, 0, 1):
        run(Config(sources=sources, seed=seed), tmp_path)
        found.append((tmp_path / "preferences_heldout.jsonl").read_text())
    assert found[0] == found[1] != found[2]


def test_a_side_without_pairs_is_said(tmp_path):
    one = write_rows(tmp_path / "one.jsonl", [{"prompt": "a?", "chosen": "b", "rejected": "c"}])
    with pytest.raises(InputError, match="nothing is"):
        run(Config(sources={"one": str(one)}, held_out=0.5), tmp_path)
