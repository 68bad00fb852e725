"""The perplexity gate: prose like the reference is in the head, noise in the tail."""

import json

import numpy as np
import pytest
from pydantic import ValidationError

from bloomery.core.errors import InputError
from bloomery.core.records import Document
from bloomery.curate.perplexity import Perplexity, PerplexityGate
from bloomery.curate.step import batch_of, decide_alone

LINE = "the river runs to the sea and it is wide with boats that have sails of cloth and masts of pine"
WORDS = LINE.split()


def prose(seed, length=40):
    chosen = np.random.default_rng(seed)
    return " ".join(" ".join(WORDS[at:at + 4]) for at in chosen.integers(0, len(WORDS) - 4, length // 4))


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    path = tmp_path_factory.mktemp("reference") / "good.jsonl"
    path.write_text("\n".join(json.dumps({"text": prose(seed)}) for seed in range(60)))
    return str(path)


def decided(texts, **options):
    return decide_alone(PerplexityGate(Perplexity(**options)), [batch_of([Document("", text) for text in texts])])


def test_texts_fall_into_head_middle_and_tail(reference):
    texts = [prose(seed) for seed in range(100, 106)] + ["zxq wvk jjq kzz pfx " * 8] * 4
    found = decided(texts, reference=reference, vocabulary=300)
    assert sorted(found.columns["bucket"][:6]) == ["head"] * 3 + ["middle"] * 3
    assert found.reasons == [None] * 6 + ["perplexity_tail"] * 4
    values = found.columns["perplexity"]
    assert values[6:].min() > 5 * values[:6].max()
    assert found.account["documents"] == {"head": 3, "middle": 3, "tail": 4}


def test_limits_in_place_of_percentiles_and_parts_to_keep(reference):
    texts = [prose(100), "zxq wvk jjq " * 9]
    found = decided(texts, reference=reference, vocabulary=300, limits=(50, 60), keep=["tail"])
    assert found.reasons == ["perplexity_head", None]
    assert found.account["ends"] == [50, 60]


def test_nothing_left_to_read_is_infinitely_surprising(reference):
    found = decided([prose(100), "!!! ..."], reference=reference, vocabulary=300, percentiles=(50, 100))
    assert found.columns["perplexity"][1] == np.inf
    assert found.reasons == [None, "perplexity_tail"]


def test_a_document_is_scored_alike_in_any_batch(reference):
    gate = PerplexityGate(Perplexity(reference=reference, vocabulary=300))
    texts = [prose(seed) for seed in range(5)]
    assert gate.perplexities(texts).tolist() == [gate.perplexities([text])[0] for text in texts]
    assert len(gate.perplexities([])) == 0


def test_the_reference_is_asked_for_and_read_to_a_limit(reference, tmp_path):
    with pytest.raises(InputError, match="perplexity to what") as error:
        PerplexityGate(Perplexity())
    assert "perplexity.reference" in error.value.hint
    with pytest.raises(ValidationError, match="end of the head"):
        Perplexity(reference=reference, percentiles=(60, 30))
    short = PerplexityGate(Perplexity(reference=reference, characters=1, vocabulary=300))
    assert short.perplexities([prose(0)])[0] < short.perplexities([prose(7)])[0]
