"""Output folders: complete or not there, one writer at a time, never another's."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from bloomery.core import artifacts
from bloomery.core.artifacts import (
    fingerprint,
    is_done,
    lock,
    open_artifact,
    produce,
    tree_hash,
    verify,
    write_atomic,
)
from bloomery.core.errors import BloomeryError, GateError, InputError


def made(folder, build=lambda out: {"n": 1}, key="k1"):
    return produce(folder, stage="s", verb="v", key=key, config={"a": 1}, parents={"p": "h"}, build=build)


def write_result(out):
    (out / "result.txt").write_text("good")
    return {"n": 2.5}


def test_a_finished_folder_is_recorded_and_not_made_again(tmp_path):
    first = made(tmp_path / "x", write_result)
    again = made(tmp_path / "x", lambda out: pytest.fail("made twice"))
    assert first.metrics == again.metrics == {"n": 2.5} and again.hash == "k1"
    record = json.loads((tmp_path / "x/stage.json").read_text())
    assert record["parents"] == {"p": "h"} and record["config"] == {"a": 1} and record["attempts"] == 1
    assert verify(tmp_path / "x") == 2                                      # result.txt and stage.json


def test_an_unfinished_folder_is_gone_on_with(tmp_path):
    def fails(out):
        (out / "half.txt").write_text("half")
        (out / ".tmp-checkpoint").mkdir()
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        made(tmp_path / "x", fails)
    assert not is_done(tmp_path / "x")
    with pytest.raises(InputError, match="not a finished output"):
        open_artifact(tmp_path / "x")

    def goes_on(out):
        assert (out / "half.txt").read_text() == "half" and not (out / ".tmp-checkpoint").exists()
        return {}

    assert made(tmp_path / "x", goes_on).record["attempts"] == 2


def test_a_folder_of_something_else_is_refused(tmp_path):
    made(tmp_path / "x")
    with pytest.raises(InputError, match="belongs to something else"):
        made(tmp_path / "x", key="k2")
    (tmp_path / "y").mkdir()
    (tmp_path / "y/thesis.tex").write_text("mine")
    with pytest.raises(InputError, match="belongs to something else"):
        made(tmp_path / "y")
    assert (tmp_path / "y/thesis.tex").read_text() == "mine"


@pytest.mark.parametrize("damage", [lambda p: p.write_text("bad!"), lambda p: p.unlink(), lambda p: p.write_text("x")])
def test_verify_names_the_damaged_file(tmp_path, damage):
    made(tmp_path / "x", write_result)
    damage(tmp_path / "x/result.txt")
    with pytest.raises(GateError) as caught:
        verify(tmp_path / "x")
    assert "result.txt" in str(caught.value) and caught.value.exit_code == 3


HOLDER = """
import sys, time
from pathlib import Path
from bloomery.core.artifacts import lock
with lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_refused_and_a_dead_one_is_forgotten(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(BloomeryError, match="another run") as caught, lock(tmp_path):
            pytest.fail("both hold it")
        assert f"process {holder.pid} on " in str(caught.value)
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        holder.stdout.close()
    with lock(tmp_path):                                                    # the file of the dead is still there
        assert f"process {os.getpid()}" in (tmp_path / ".lock").read_text()


def test_a_full_disk_is_found_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 5, 5))
    with pytest.raises(BloomeryError, match="disk space") as caught:
        made(tmp_path / "x", lambda out: pytest.fail("worked on a full disk"))
    assert str(tmp_path / "x") in str(caught.value) and "MiB" in str(caught.value)


def test_write_atomic_leaves_the_old_file_when_writing_fails(tmp_path, monkeypatch):
    write_atomic(tmp_path / "a", "old")
    monkeypatch.setattr(artifacts.os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(OSError, match="No space"):
        write_atomic(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "old" and os.listdir(tmp_path) == ["a"]


def test_hashes_are_of_content_alone(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name / "deep").mkdir(parents=True)
    for folder, order in (("one", "ab"), ("two", "ba")):
        for file in order:
            (tmp_path / folder / "deep" / file).write_text(file)
            time.sleep(0.01)
    (tmp_path / "two/.hidden").write_text("x")
    assert tree_hash(tmp_path / "one") == tree_hash(tmp_path / "two")
    (tmp_path / "two/deep/a").write_text("changed")
    assert tree_hash(tmp_path / "one") != tree_hash(tmp_path / "two")
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1}) != fingerprint({"a": 1, "b": [3]})
    assert fingerprint({"b": [2], "a": 1}) == "0855bfc20e"                  # printf '{"a":1,"b":[2]}' | sha256sum
