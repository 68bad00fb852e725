"""The README says what the repository does: its commands run, its links lead somewhere, its files are read in order."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from bloomery.stages import STAGES

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_two_commands_are_targets_of_the_makefile():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    promised = re.findall(r"^make ([\w-]+)$", README, re.M)
    assert promised[:2] == ["quickstart", "test"]
    assert set(promised) <= targets


def test_every_file_it_names_exists():
    named = set(re.findall(r"`((?:bloomery|recipes|tests|docs|examples)/[\w./-]+)`", README))
    assert len(named) >= 10
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_every_verb_it_names_is_a_stage_or_a_command():
    others = {"run", "chat", "show", "export", "check", "verify", "doctor", "generate", "serve", "score", "text",
              "predict", "rethreshold"}
    named = set(re.findall(r"^bloomery ([a-z]+)", README, re.M)) | set(re.findall(r"`bloomery ([a-z]+)", README))
    assert named and named <= set(STAGES) | others


RECIPE_COMMAND = re.compile(r"^(bloomery (?:run|check) \S+(?: --dry-run)?)$", re.M)


@pytest.mark.parametrize("line", sorted(set(RECIPE_COMMAND.findall(README))))
def test_recipe_commands_are_understood(line, tmp_path):
    """Commands of the README that read a recipe pass its check as written."""
    recipe = line.split()[2]
    command = [sys.executable, "-m", "bloomery.cli", "check", recipe]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
