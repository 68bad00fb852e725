"""The server against its own OpenAPI document: schemathesis, valid and invalid data, all phases, nothing left out."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not importlib.util.find_spec("schemathesis"),
                                                   reason="schemathesis is not installed: the API is not fuzzed")]

# 400 is judged by `schemathesis_checks`: it must be for one of the few reasons that JSON Schema has no words for.
CONFIG = """
[checks.positive_data_acceptance]
expected-statuses = ["2xx", 400, 404, 409]
"""


def test_no_5xx_and_every_answer_as_described(server, tmp_path):
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    around = os.environ | {"SCHEMATHESIS_HOOKS": "schemathesis_checks", "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json", "--mode", "all",
               "--phases", "examples,coverage,fuzzing,stateful", "--checks", "all", "--seed", "1", "--no-shrink",
               "--max-examples", os.environ.get("BLOOMERY_FUZZ", "40"), "--continue-on-failure",
               "--request-timeout", "60"]
    done = subprocess.run(command, cwd=tmp_path, env=around, text=True, capture_output=True, timeout=1800)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert re.search(r"Selected: (\d+)/\1\s+Tested: \1\b", done.stdout), done.stdout[-2000:]
