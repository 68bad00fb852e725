"""`bloomery serve` as a process: says where it listens, answers, and ends when what it began is finished."""

import os
import re
import signal
import subprocess
import sys

import httpx2 as httpx
import pytest
from live_server import sse

from bloomery import cli
from bloomery.core.errors import ConfigError
from bloomery.serve.run import listening, settings_of
from bloomery.serve.settings import ServeSettings

HELLO = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "ignore_eos": True, "stream": True}


@pytest.fixture
def process(tiny_folder):
    command = [sys.executable, "-m", "bloomery.cli", "serve", str(tiny_folder), "--port", "0", "--set", "dtype=fp32",
               "--set", "slots=2"]
    environment = {name: value for name, value in os.environ.items() if name != "BLOOMERY_KEYS"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as started:
        yield started
        started.kill()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_when_told_to_and_finishes_what_it_began(process, how):
    said = []
    while not (found := re.match(r"http://127\.0\.0\.1:\d+", line := process.stderr.readline())):
        assert line, f"it ended: {said}"
        said.append(line)
    assert any("tiny: chat" in line and "256 tokens" in line for line in said)
    with httpx.stream("POST", f"{found[0]}/v1/chat/completions", json=HELLO, timeout=30) as answer:
        pieces = answer.iter_bytes()
        body = next(pieces)
        process.send_signal(how)
        body += b"".join(pieces)
    chunks = sse(body.decode())
    assert chunks[-1] == "[DONE]" and chunks[-2]["choices"][0]["finish_reason"] == "length"
    assert process.wait(20) == 0
    rest = process.stderr.read()
    assert rest.splitlines()[-1] == "stopped" and "hello" not in rest and "Traceback" not in rest


def test_options():
    found = settings_of({"port": 0, "lenient": True}, ["slots=3", "cors_origins=https://a.org", "dtype=bf16"])
    assert (found.slots, found.lenient, found.cors_origins, found.dtype) == (3, True, ("https://a.org",), "bf16")
    with pytest.raises(ConfigError, match="did you mean slots"):
        settings_of({}, ["slot=3"])


def test_a_port_in_use_is_one_line():
    with listening(ServeSettings(port=0)) as taken, pytest.raises(ConfigError, match="cannot listen"):
        taken.listen()
        listening(ServeSettings(port=taken.getsockname()[1]))


def test_a_mistake_costs_no_time(tiny_folder, capsys):
    assert cli.main(["serve", str(tiny_folder), "--set", "ports=1"]) == 2
    assert "did you mean port" in capsys.readouterr().err
    assert cli.main(["serve", str(tiny_folder / "none")]) == 1
