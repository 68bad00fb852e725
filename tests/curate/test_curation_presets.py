"""Published recipes: complete, and what is said beside one counts."""

import pyarrow as pa
import pytest
from pyarrow import parquet
from pydantic import ValidationError

from bloomery.curate.language import Identify
from bloomery.curate.presets import PRESETS
from bloomery.curate.run import STEPS, Config, run


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_configuration(name):
    config = Config(source="x", preset=name)
    assert config.steps == PRESETS[name]["steps"] and set(config.steps) <= set(STEPS)
    assert set(PRESETS[name]) - {"steps"} <= set(config.steps)                  # no table for a step that is not taken
    assert Config(**config.model_dump()) == config                              # as it is written down and read again


def test_options_beside_a_preset_count():
    config = Config(source="x", preset="fineweb", steps=["c4", "fineweb"], c4={"sentences": 3})
    assert (config.steps, config.c4.sentences, config.c4.ends) == (("c4", "fineweb"), 3, ())
    assert config.gopher.counting == "datatrove" and config.fineweb.words == "english"
    assert Config(source="x").steps == ("exact", "generated", "gopher", "repetition")


def test_an_unknown_preset_is_an_error():
    with pytest.raises(ValidationError, match="preset"):
        Config(source="x", preset="finweb")


def test_line_rules_edit_what_a_run_writes(tmp_path):
    good = "The river runs to the sea and it is wide. It has boats with sails that are white!"
    texts = ["\n".join(["Home", good, good.replace("river", f"stream {n}"), good.replace("sea", "lake"), "3 likes"])
             for n in range(4)] + ["nothing of a page"]
    parquet.write_table(pa.table({"id": [str(n) for n in range(5)], "text": texts}), tmp_path / "pages.parquet")
    out = tmp_path / "out"
    out.mkdir()
    metrics = run(Config(source=str(tmp_path / "pages.parquet"), preset="c4", steps=["c4"]), out)
    assert metrics["documents_kept"] == 4 and metrics["dropped/sentences"] == 1
    kept = parquet.read_table(out / "documents.parquet").column("text").to_pylist()
    assert kept == ["\n".join(text.split("\n")[1:4]) for text in texts[:4]]


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_no_preset_takes_plain_english_for_another_language(name):
    pytest.importorskip("py3langid")
    options = Config(source="x", preset=name).language
    labels, _ = Identify(options).labels(["The museum opens at nine in the morning and closes at five. Visitors who "
                                          "come by train should leave it at the second stop and walk along the river."])
    assert labels == ["en"] and options.languages == ("en",)
