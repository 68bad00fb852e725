"""How this package compiles its inner loops: numba, without the interpreter's lock, kept on disk.

A loop stands in a file of its own, `minhash_kernel.py` beside `minhash.py`, which imports numba and is imported when
it is first needed: `kernel("minhash")`.  Numba renews what it kept when that file changes, but not when a constant or
a function does that the file imports; so what is older than any of them is thrown away here.
"""

import re
import sys
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from types import ModuleType

from bloomery.core.errors import InputError
from bloomery.core.metrics import say

FOLDER = Path(__file__).parent
IMPORTED = re.compile(r"^from bloomery\.curate(?:\.(\w+) import| import ([\w, ]+))", re.MULTILINE)
ONE_AT_A_TIME = Lock()                      # threads meet a kernel together


@cache
def kernel(name: str) -> ModuleType:
    """The compiled loops of a file; `InputError` where numba is not installed."""
    if not find_spec("numba"):
        raise InputError(f"the step {name} needs numba", hint="pip install 'bloomery[curate]'")
    file = f"{name}_kernel"
    with ONE_AT_A_TIME:
        if f"bloomery.curate.{file}" not in sys.modules and not kept(FOLDER, file):
            say(f"  compiling the loops of {name} (seconds to a minute, once for this machine)")
        return import_module(f"bloomery.curate.{file}")


def compiled(name: str) -> ModuleType | None:
    """The same, or None where numba is not installed: for what can be done without, more slowly."""
    return kernel(name) if find_spec("numba") else None


def kept(folder: Path, file: str) -> bool:
    """Whether compiled loops lie on the disk; those made before a change of anything they are made of are removed."""
    changed = max(path.stat().st_mtime_ns for path in made_of(folder, file))
    indices = list(folder.glob(f"__pycache__/{file}.*.nbi"))
    for index in indices:
        if index.stat().st_mtime_ns < changed:
            index.unlink(missing_ok=True)
    return any(index.exists() for index in indices)


def made_of(folder: Path, file: str) -> set[Path]:
    """The source of a kernel, and of what it imports of this package, and what that imports."""
    found, waiting = set(), [file]
    while waiting:
        path = folder / f"{waiting.pop()}.py"
        if path not in found and path.exists():
            found.add(path)
            imports = IMPORTED.findall(path.read_text(encoding="utf-8"))
            waiting += [name for one, several in imports for name in (one or several).split(", ")]
    return found
