"""The corpus that is on every machine: the running interpreter's standard library, as text and as objects.

`documents` gives the source of its modules, the topics of its help system, and the documentation of what is written in
C; `objects` gives its public functions, classes and methods with what they say of themselves.  Both depend only on the
interpreter: order is sorted, and a text with a memory address in it is not given.  Left out: `test` packages, installed
packages, and the record of how this interpreter was built (its machine's paths).
"""

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from platform import python_implementation, python_version
from pydoc_data.topics import topics as TOPICS
from tokenize import open as open_source

from bloomery.core.errors import BloomeryError
from bloomery.core.files import Quarantine
from bloomery.core.records import Document, text_id
from bloomery.data import reflection

SOURCE = "python:stdlib"


@dataclass(frozen=True, slots=True)
class LibraryObject:
    """A public function, class or method: `textwrap.dedent`, `str.join`, `pathlib.Path.exists`."""

    name: str
    module: str
    kind: str                                               # function | class | method
    doc: str
    parameters: tuple[str, ...] | None                      # None: it does not say


def fingerprint() -> str:
    """A hash of all that the corpus depends on: the interpreter's version and every source file."""
    digest = hashlib.sha256(f"{python_implementation()} {python_version()}".encode())
    for name in reflection.source_files():
        digest.update(name.encode() + b"\0" + hashlib.sha256((reflection.root() / name).read_bytes()).digest())
    return digest.hexdigest()[:16]


def documents(quarantine: Quarantine) -> Iterator[Document]:
    """Sources of modules, then topics, then the documentation of C modules, each sorted by name."""
    for source, text in chain(module_sources(quarantine), topics(), runtime_docs()):
        if text.strip():
            yield Document(text_id(text), text, source)
        else:
            quarantine.add(source, "empty text")


def module_sources(quarantine: Quarantine) -> Iterator[tuple[str, str]]:
    """Every module's source, decoded as the interpreter does it (PEP 263)."""
    for name in reflection.source_files():
        try:
            with open_source(reflection.root() / name) as file:
                text = file.read()
        except (SyntaxError, UnicodeDecodeError) as error:
            quarantine.add(f"stdlib/{name}", f"undecodable source: {error}")
        else:
            yield f"stdlib/{name}", text


def topics() -> Iterator[tuple[str, str]]:
    """The topics of `help()`, chapters of the language reference as plain text."""
    for name in sorted(TOPICS):
        yield f"topics/{name}", TOPICS[name]


def runtime_docs() -> Iterator[tuple[str, str]]:
    """What built-in and extension modules say of themselves: they have no Python source to read."""
    for row in reflect("runtime"):
        yield row["source"], row["text"]


def objects() -> Iterator[LibraryObject]:
    """Public objects of the importable standard library, each once, under the shortest public name it has."""
    for row in reflect("objects"):
        names = row.pop("parameters")
        yield LibraryObject(**row, parameters=None if names is None else tuple(names))


def reflect(what: str) -> Iterator[dict]:
    """The rows of `reflection.py`, run in a fresh interpreter without site packages: no patch of ours shows."""
    done = subprocess.run([sys.executable, "-I", "-S", "-X", "utf8", reflection.__file__, what], check=False,
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, encoding="utf-8")
    if done.returncode:
        raise BloomeryError("the standard library could not be examined", where=sys.executable,
                            why=done.stderr.strip().rpartition("\n")[2] or f"exit status {done.returncode}",
                            hint="check that this interpreter starts with -I -S")
    return map(json.loads, done.stdout.splitlines())
