"""Compiled loops (numba): where they stand, and when what was kept of them on disk is out of date.

A loop stands in a file of its own, `scan_kernel.py` beside `scan.py`, which imports numba and is imported when it is
first needed: `kernel("curate/scan")`.  Numba renews what it kept when that file changes, but not when a constant or a
function does that the file imports; so what is older than any of them is thrown away here.
"""

import re
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from types import ModuleType

from bloomery.core.errors import InputError
from bloomery.core.metrics import say

ROOT = Path(__file__).parents[1]
IMPORTED = re.compile(r"^from bloomery\.(\w+)(?:\.(\w+) import| import ([\w, ]+))", re.MULTILINE)
ONE_AT_A_TIME = Lock()                      # threads meet a kernel together


@cache
def kernel(name: str) -> ModuleType | None:
    """The compiled loops of a file, asked for as `package/file`; None where numba is not installed."""
    if not find_spec("numba"):
        return None
    package, _, file = name.partition("/")
    with ONE_AT_A_TIME:
        if not kept(ROOT / package, f"{file}_kernel"):
            say(f"  compiling the loops of {file} (seconds to a minute, once for this machine)")
        return import_module(f"bloomery.{package}.{file}_kernel")


def needed(name: str) -> ModuleType:
    """The same for what cannot be done without; `InputError` where numba is not installed."""
    if not (found := kernel(name)):
        raise InputError(f"{name.partition('/')[2]} needs numba", hint="pip install 'bloomery[curate]'")
    return found


def kept(folder: Path, file: str) -> bool:
    """Whether compiled loops lie on the disk; those made before a change of anything they are made of are removed."""
    changed = max(path.stat().st_mtime_ns for path in made_of(folder, file))
    indices = list(folder.glob(f"__pycache__/{file}.*.nbi"))
    for index in indices:
        if index.stat().st_mtime_ns < changed:
            index.unlink(missing_ok=True)
    return any(index.exists() for index in indices)


def made_of(folder: Path, file: str) -> set[Path]:
    """The source of a kernel, and of what it imports of its package and of other kernels' files, and what these do."""
    found, waiting = set(), [(folder, file)]
    while waiting:
        place, name = waiting.pop()
        path = place / f"{name}.py"
        if path not in found and path.exists():
            found.add(path)
            for package, one, several in IMPORTED.findall(path.read_text(encoding="utf-8")):
                waiting += [(folder.parent / package, other) for other in (one or several).split(", ")
                            if package == place.name or other.endswith("_kernel")]
    return found
