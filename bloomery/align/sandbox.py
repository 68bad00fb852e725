"""Unit tests of Python that a model wrote, run where it can do little harm (`jail.py` says how).

Two processes, killed together when the time is over: one has the code, one the tests, and only calls and plain values
go between them.  Each has limits on time, memory and file sizes, an empty environment, a folder of its own that is
deleted afterwards, no network, no other processes, and the standard library only.

This keeps honest what a model learns, and a machine from accidents.  It is no wall against someone who attacks the
interpreter or the kernel: on anything but a recent Linux only Python's own audit hook guards files and network, which
code that corrupts memory can leave behind.  Run models you do not trust in a virtual machine.
"""

import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from bloomery.align.limits import TookTooLong
from bloomery.core.records import Problem

JAIL = Path(__file__).with_name("jail.py")
FENCE = re.compile(r"```(?:python|py|python3)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)
SOON = 0.05                     # seconds in which a process whose partner has ended ends too
GRACE = 1.0                     # seconds of wall time beyond the time of the tests: two interpreters start


def passes(said: str, known: str, *, seconds: float = 10.0, memory: int = 1024) -> str | None:
    """Why the tests fail, or None when all pass. `known` is their text, or a JSON object as `known_tests` writes it.

    `TookTooLong` when they are not done in `seconds`; `memory` is in MiB, for each process.
    """
    task = read_task(known)
    with tempfile.TemporaryDirectory(prefix="sandbox-") as folder:
        return run(program(said, task), json.dumps(task), folder, seconds=seconds, memory=memory)


def read_task(known: str) -> dict[str, str]:
    try:
        task = json.loads(known)
    except ValueError:
        task = None
    return {"tests": known, "prompt": "", "entry_point": ""} if not isinstance(task, dict) else \
        {"prompt": "", "entry_point": ""} | task


def program(said: str, task: dict[str, str]) -> str:
    """The code of an answer: its last fence, or all of it; continues the prompt if it does not define what is asked."""
    fences = FENCE.findall(said)
    code = fences[-1] if fences else said
    entry = task["entry_point"]
    defines = rf"(?m)^(?:(?:async )?def|class) {re.escape(entry)}\b|^{re.escape(entry)} *="
    if task["prompt"] and not (entry and re.search(defines, code)):
        return task["prompt"] + code
    return f"{imports(task['prompt'])}\n{code}"


def imports(prompt: str) -> str:
    """The lines a prompt begins with that are imports, which an answer that repeats the function may leave out."""
    return "\n".join(line for line in prompt.splitlines() if re.match(r"(?:import|from)\s", line))


def run(code: str, task: str, folder: str, *, seconds: float, memory: int) -> str | None:
    ends = socket.socketpair()
    started: list[subprocess.Popen] = []
    try:
        for role, end in zip(("answer", "examine"), ends, strict=True):
            own = Path(folder) / role
            own.mkdir()
            started.append(subprocess.Popen(
                [sys.executable, "-I", "-S", str(JAIL), role, str(end.fileno()), str(own), str(math.ceil(seconds)),
                 str(memory)], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=own, env={},
                stdout=subprocess.PIPE if role == "examine" else subprocess.DEVNULL, start_new_session=True,
                pass_fds=(end.fileno(),)))
        for end in ends:
            end.close()
        answering, examining = started
        feed(answering, code)
        try:
            out, _ = examining.communicate(task.encode(), timeout=seconds + GRACE)
        except subprocess.TimeoutExpired:
            raise TookTooLong(f"the tests are not done in {seconds:g} s") from None
        out_of_time = any(ended_by(process, signal.SIGXCPU) for process in started)
    finally:
        for end in ends:
            end.close()
        for process in started:
            end_group(process)
    said = out.decode("utf-8", "replace")
    if out_of_time:
        raise TookTooLong(f"the tests are not done in {seconds:g} s of computing")
    return None if said == "passed" else said or f"the tests ended with code {examining.returncode}"


def feed(process: subprocess.Popen, source: str) -> None:
    """A program's text, which it reads to the end before it does anything."""
    try:
        process.stdin.write(source.encode("utf-8", "surrogatepass"))
        process.stdin.close()
    except BrokenPipeError:
        process.stdin = None                                    # it has ended already: the tests will say so


def ended_by(process: subprocess.Popen, number: int) -> bool:
    """Whether a process has ended, and by this signal; one that is about to end is waited for a moment."""
    try:
        return process.wait(SOON) == -number
    except subprocess.TimeoutExpired:
        return False


def end_group(process: subprocess.Popen) -> None:
    """A process and all it has started, whatever they are doing."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe and not pipe.closed:
            pipe.close()


# --- tests of a prompt's row ------------------------------------------------------------------------------------------

def known_tests(problem: Problem) -> str:
    """What `passes` must know, from the columns of HumanEval, of MBPP, from `tests`, or from the answer; "" if nothing.

    HumanEval's `test` is called with its `entry_point`, MBPP's `test_list` are assertions.
    """
    row = problem.columns
    if row.get("test") and row.get("entry_point"):
        tests = f"{row['test']}\ncheck({row['entry_point']})\n"
    elif row.get("test_list"):
        setup = row.get("test_setup_code") or lines(row.get("test_imports"))
        tests = f"{setup}\n{lines(row['test_list'])}\n"
    else:
        tests = lines(row.get("tests")) or problem.answer
    prompt = problem.prompt[-1].content if row.get("entry_point") else ""
    return json.dumps({"tests": tests, "prompt": prompt, "entry_point": row.get("entry_point") or ""}) if tests else ""


def lines(value: str | Sequence[str] | None) -> str:
    return value if isinstance(value, str) else "\n".join(value or ())
