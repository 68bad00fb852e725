"""Ids of the hub, without a hub: a cache laid out as huggingface_hub does it, and one that answers."""

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from bloomery import cli
from bloomery.core.config import Input, Settings
from bloomery.core.errors import BloomeryError, ConfigError, InputError
from bloomery.model import hub
from bloomery.model.config import ModelConfig
from bloomery.model.store import load_config, load_model, save_model
from bloomery.model.transformer import Transformer
from bloomery.pipeline import fetched, run_verb, source_hash

constants = pytest.importorskip("huggingface_hub.constants")
filtered = pytest.importorskip("huggingface_hub.utils").filter_repo_objects
OLD, NEW = "0123456789" * 4, "abcdef0123" * 4
SHAPE = ModelConfig(vocabulary=280, context=32, depth=1, width=16, heads=1, kv_heads=1, head_width=16, hidden=16)


@pytest.fixture(autouse=True)
def forget():
    hub.commit.cache_clear()
    yield
    hub.commit.cache_clear()


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """A cache that holds the model org/tiny at `OLD`, which is main; nothing else can be reached."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    place = tmp_path / "cache" / "models--org--tiny"
    save_model(Transformer(SHAPE), place / "snapshots" / OLD)
    (place / "blobs").mkdir()
    for number, path in enumerate(sorted((place / "snapshots" / OLD).iterdir())):
        path.rename(place / "blobs" / str(number))
        path.symlink_to(Path("../../blobs") / str(number))
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(OLD)
    return place


@pytest.mark.parametrize(("value", "expected"), [
    ("hf:org/name", ("model", "org/name", None)), ("hf:a-b/c.d_e@v1.0", ("model", "a-b/c.d_e", "v1.0")),
    ("hf:org/name@refs/pr/1", ("model", "org/name", "refs/pr/1")),
    ("hf:datasets/org/name@main", ("dataset", "org/name", "main"))])
def test_ids(value, expected):
    assert hub.parsed(value) == expected and hub.is_hub_id(value)


@pytest.mark.parametrize("value", ["hf:name", "hf:", "hf:org/name/more", "hf:org/../name", "hf:org/name@", "hf:/a/b"])
def test_what_is_no_id(value, tmp_path):
    with pytest.raises(InputError, match="not a model on the hub"):
        hub.located(value)
    with pytest.raises(ConfigError, match="is not of the form hf:org/name"):
        run_verb("sft", [f"model={value}", "data=python:stdlib", "steps=1", f"out={tmp_path / 'out'}"])


def test_the_cache_is_enough_without_a_network(cache):
    assert hub.commit("hf:org/tiny") == source_hash("hf:org/tiny") == OLD
    folder = hub.folder("hf:org/tiny")
    assert folder == cache / "snapshots" / OLD and load_model(folder).config.width == 16
    assert hub.located("hf:org/tiny") == str(folder) and hub.located("some/folder") == "some/folder"
    with pytest.raises(InputError, match="not found on the hub, and not in its cache") as error:
        hub.folder("hf:org/other")
    assert "Offline" in error.value.why and "local folder" in error.value.hint


def test_a_stage_is_given_the_folder_and_hashed_by_the_commit(cache):
    class Config(Settings):
        model: Input = ""
        models: dict[str, Input] = {}
        note: str = ""

    config = fetched(Config(models={"base": "hf:org/tiny", "own": "runs/base"}, note="hf:"))
    assert config.models == {"base": str(cache / "snapshots" / OLD), "own": "runs/base"} and config.note == "hf:"
    plain = Config(model="runs/base")
    assert fetched(plain) is plain


def test_only_files_we_read_are_asked_for_and_a_commit_is_not_looked_up(monkeypatch, tmp_path):
    asked = []
    found = SimpleNamespace(repo_info=lambda *a, **o: asked.append(("info", a, o)) or SimpleNamespace(sha=NEW))
    fake = SimpleNamespace(
        HfApi=lambda: found,
        snapshot_download=lambda repository, **options: asked.append((repository, options)) or str(tmp_path))
    monkeypatch.setattr(hub, "client", lambda: fake)
    assert hub.folder(f"hf:org/name@{OLD}") == tmp_path
    (repository, options), = asked
    assert (repository, options["revision"], options["repo_type"]) == ("org/name", OLD, "model")
    files = ["model.safetensors", "config.json", "chat_template.jinja", "pytorch_model.bin", "modeling.py",
             "original/params.json", "tokenizer.model"]
    kept = filtered(files, allow_patterns=options["allow_patterns"],
                    ignore_patterns=options["ignore_patterns"])
    assert list(kept) == files[:3]
    asked.clear()
    hub.folder("hf:datasets/org/name@v2")
    hub.folder("hf:datasets/org/name@v2")                                   # asked once: hash and run see one commit
    assert [entry[0] for entry in asked] == ["info", "org/name", "org/name"] and asked[1][1]["revision"] == NEW
    assert "*.parquet" in asked[1][1]["allow_patterns"] and "*.py" not in asked[1][1]["allow_patterns"]


def test_without_the_extra_one_line_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(BloomeryError, match="huggingface_hub is not installed") as error:
        hub.located("hf:org/name")
    assert "pip install 'bloomery[hub]'" in error.value.hint


def test_a_recipe_may_start_from_the_hub(cache, tmp_path, monkeypatch):
    """The whole way: `model=hf:...` is checked, hashed by its commit, found in the cache and read."""
    seen = {}
    (tmp_path / "chat.jsonl").write_text(json.dumps({"prompt": "a", "completion": "b"}) + "\n")

    def run(config, out):
        seen.update(model=config.model, width=load_config(Path(config.model)).width)
        return {}

    monkeypatch.setattr("bloomery.instruct.run.run", run)
    arguments = ["model=hf:org/tiny", f"data={tmp_path / 'chat.jsonl'}", "steps=1", f"out={tmp_path / 'out'}"]
    made = run_verb("sft", arguments)
    assert seen == {"model": str(cache / "snapshots" / OLD), "width": 16}
    assert made.record["config"]["model"] == "hf:org/tiny"
    shutil.copytree(cache / "snapshots" / OLD, cache / "snapshots" / NEW, symlinks=True)
    (cache / "refs" / "main").write_text(NEW)
    hub.commit.cache_clear()
    with pytest.raises(InputError, match="belongs to something else"):      # another commit is another input
        run_verb("sft", arguments)


def test_commands_take_an_id_where_they_take_a_model(cache, capfd):
    assert cli.main(["show", "hf:org/tiny", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["model"]["config"]["width"] == 16
    assert cli.main(["chat", "hf:org/other", "--ask", "hi"]) == 1
    assert "not found on the hub, and not in its cache" in capfd.readouterr().err
