"""Languages are told apart offline, and not at all where a text says too little."""

import gzip
import json
import os
import socket
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from bloomery.core.errors import BloomeryError, InputError
from bloomery.core.records import Document
from bloomery.curate import language
from bloomery.curate.classifier import Features, Judge
from bloomery.curate.language import UNDETERMINED, Identify, Language, carried, stretches
from bloomery.curate.step import batch_of

TEXTS = {"de": "Der Fluss fließt langsam zum Meer, und die Boote liegen am Ufer und warten auf den Wind.",
         "en": "The river runs slowly to the sea, and the boats lie at the bank and wait for the wind.",
         "fr": "La rivière coule lentement vers la mer, et les bateaux attendent le vent près de la rive.",
         "ru": "Река медленно течёт к морю, и лодки стоят у берега и ждут ветра."}
SHORT = {"hi": "ok", "digits": "12345 " * 40, "none": ""}
SAME = {"no": "nb", "sh": "hr", "bs": "hr", "sr": "hr"}
NEVER = {"lg", "mi", "sn", "st", "tn", "ts", "xh", "zu"}                    # not among lid.176's languages


def batch(*texts):
    return batch_of([Document(str(i), text) for i, text in enumerate(texts)])


@pytest.fixture(params=["fasttext", "langid"])
def library(request, monkeypatch):
    if getattr(language, request.param) is None or request.param == "fasttext" and carried() is None:
        pytest.skip(f"{request.param} is not installed")
    if request.param == "langid":
        monkeypatch.setattr(language, "fasttext", None)


def test_languages_are_told_apart_and_short_texts_are_not(library, monkeypatch):
    monkeypatch.setattr(socket, "socket", None)                             # nothing may look for the network
    found = Identify(Language(languages=("de", "en"))).examine(batch(*TEXTS.values(), *SHORT.values()))
    assert found.columns["language"].tolist() == [*TEXTS, *[UNDETERMINED] * 3]
    assert found.reasons == [None, None, "other_language", "other_language", *["language_unknown"] * 3]
    scores = found.columns["language_score"]
    assert (scores[:4] > 0.65).all() and (scores[4:] == 0).all() and (scores <= 1).all()


def test_nothing_asked_for_labels_everything_and_unknown_may_stay():
    every = (*TEXTS.values(), *SHORT.values())
    assert Identify(Language()).examine(batch(*every)).reasons == [None] * 7
    kept = Identify(Language(languages=("en",), keep_unknown=True)).examine(batch(*every)).reasons
    assert kept == ["other_language", None, "other_language", "other_language", None, None, None]
    unsure = Identify(Language(threshold=1.0)).examine(batch("the river le fleuve der Fluss and et und"))
    assert unsure.columns["language"].tolist() == [UNDETERMINED] and 0 < unsure.columns["language_score"][0] < 1


def test_head_and_middle_are_looked_at():
    text = "a" * 500 + "x" * 5000 + "b" * 5000 + "c" * 500
    assert stretches(text, 1000) == "a" * 500 + " " + "b" * 500
    assert stretches("a\nb  c", 1000) == "a b c" and stretches("abcdef", 4) == "ab de"


def test_a_classifier_of_ones_own(tmp_path):
    texts = [" ".join(np.random.default_rng(i).permutation(text.split())) for i in range(30) for text in TEXTS.values()]
    Judge.train(texts, list(TEXTS) * 30, Features(characters=3, shape=0, rate=0.5)).save(tmp_path)
    step = Identify(Language(model=str(tmp_path)))
    assert step.labels(list(TEXTS.values()))[0] == list(TEXTS)
    assert step.labels([])[0] == []


def test_what_is_no_model_and_no_library_are_errors(tmp_path, monkeypatch):
    (tmp_path / "lid.ftz").write_bytes(b"not a model")
    if language.fasttext:
        with pytest.raises(InputError, match="not a language model"):
            Identify(Language(model=str(tmp_path / "lid.ftz")))
    with pytest.raises(InputError, match="no linear classifier"):
        Identify(Language(model=str(tmp_path)))
    monkeypatch.setattr(language, "fasttext", None)
    monkeypatch.setattr(language, "langid", None)
    with pytest.raises(BloomeryError, match="cannot be told apart") as caught:
        Identify(Language())
    assert "pip install" in caught.value.hint


@pytest.mark.skipif("BLOOMERY_DATA" not in os.environ, reason="needs sentences of 75 languages in BLOOMERY_DATA")
@pytest.mark.parametrize("library, least", [("fasttext", 0.93), ("langid", 0.97)])
def test_texts_of_two_hundred_characters_are_named_rightly(library, least):
    """In the languages it knows; Bosnian, Croatian and Serbian count as one, and `no` is what it writes for `nb`."""
    found = defaultdict(list)
    path = Path(os.environ["BLOOMERY_DATA"]) / "langid_lingua" / "sentences.jsonl.gz"
    for row in map(json.loads, gzip.decompress(path.read_bytes()).splitlines()):
        if len(row["text"]) >= 200 and row["lang"] not in NEVER:
            found[row["lang"]].append(row["text"])
    loose, sure = Identify(Language(library=library, threshold=0)), Identify(Language(library=library))
    right, said = [], []
    for lang, texts in found.items():
        right += [SAME.get(label, label) == SAME.get(lang, lang) for label in loose.labels(texts)[0]]
        said += [SAME.get(label, label) == SAME.get(lang, lang) for label in sure.labels(texts)[0]
                 if label != UNDETERMINED]
    assert len(right) > 4000 and np.mean(right) > least and np.mean(said) > 0.98
