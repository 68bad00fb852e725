"""Trackers get every row once, keep to this machine, and can fail without stopping anything."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from bloomery.core.errors import BloomeryError
from bloomery.train import trackers
from bloomery.train.trackers import TRACKERS, Start, Tracker, Trackers


@pytest.fixture
def lines(monkeypatch):
    said = []
    monkeypatch.setattr(trackers, "say", said.append)
    return said


def read_events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder)).Reload()
    return {name: [(event.step, event.value) for event in found.Scalars(name)] for name in found.Tags()["scalars"]}


def test_tensorboard_has_every_step_once_over_a_resume(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    for first, last in ((0, 5), (3, 7)):                                    # killed at 5, goes on after 3
        with Trackers(("tensorboard",), Start(tmp_path, "base", {}, first)) as track:
            for step in range(first + 1, last + 1):
                track(step, {"loss": step / 4, "event": "words are no numbers"})
            track(last, {"val_bpb/web": 0.5})
        assert track.failures == {}
    found = read_events(tmp_path / "tensorboard")
    assert found["loss"] == [(step, step / 4) for step in range(1, 8)] and found["val_bpb/web"] == [(7, 0.5)]


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_others_start_a_run_of_the_same_group_after_a_resume(name, tmp_path, monkeypatch, capsys):
    runs, rows = [], []
    run = SimpleNamespace(log=lambda numbers, step: rows.append((step, numbers)), finish=lambda: rows.append("end"))
    fake = SimpleNamespace(init=lambda **options: (print("hello"), runs.append(options), run)[-1])
    monkeypatch.setitem(sys.modules, name, fake)
    for variable in ("WANDB_MODE", "WANDB_PROJECT", "TRACKIO_PROJECT"):
        monkeypatch.delenv(variable, raising=False)
    for step in (0, 3):
        with Trackers((name,), Start(tmp_path, "base", {"steps": 9}, step)) as track:
            track(step + 1, {"loss": 1.0})
    assert [(r["name"], r["group"], r["project"]) for r in runs] == \
        [("base", "base", "bloomery"), ("base from step 3", "base", "bloomery")]
    assert rows == [(1, {"loss": 1.0}), "end", (4, {"loss": 1.0}), "end"]
    assert name != "wandb" or runs[0]["mode"] == "offline"
    assert capsys.readouterr().out == ""                                    # stdout is the command's result
    monkeypatch.setenv("WANDB_MODE", "online")
    Trackers((name,), Start(tmp_path, "base", {}))
    assert name != "wandb" or runs[-1]["mode"] == "online"


def test_one_that_fails_is_said_once_and_counted(tmp_path, lines, monkeypatch):
    rows = []

    def refuse(step, numbers):
        raise ConnectionError("no route")

    def cannot_start(start):
        raise OSError("disk quota")

    monkeypatch.setitem(TRACKERS, "wandb", lambda start: Tracker(refuse, lambda: None))
    monkeypatch.setitem(TRACKERS, "trackio", cannot_start)
    monkeypatch.setitem(TRACKERS, "tensorboard", lambda start: Tracker(lambda *row: rows.append(row), lambda: None))
    with Trackers(("trackio", "wandb", "tensorboard"), Start(tmp_path, "base", {})) as track:
        for step in range(1, 4):
            track(step, {"loss": 1.0})
    assert [step for step, _ in rows] == [1, 2, 3] and track.failures == {"trackio": 1, "wandb": 3}
    assert len(lines) == 4 and "disk quota" in lines[0] and "ConnectionError: no route" in lines[1]
    assert lines[2:] == ["  warning: trackio failed 1 time in all", "  warning: wandb failed 3 times in all"]


@pytest.mark.parametrize("name", TRACKERS)
def test_a_missing_package_is_an_error_before_the_first_step(name, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard" if name == "tensorboard" else name, None)
    with pytest.raises(BloomeryError, match=f"{name} is not installed") as error:
        Trackers((name,), Start(tmp_path, "base", {}))
    assert "pip install 'bloomery[track]'" in error.value.hint
