"""How this package compiles its inner loops: numba, without the interpreter's lock, kept on disk.

A loop stands in a file of its own, `minhash_kernel.py` beside `minhash.py`, which imports numba and is imported when
it is first needed: `kernel("minhash")`.
"""

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from bloomery.core.errors import InputError


def kernel(name: str) -> ModuleType:
    """The compiled loops of a file; `InputError` where numba is not installed."""
    if not find_spec("numba"):
        raise InputError(f"the step {name} needs numba", hint="pip install 'bloomery[curate]'")
    return import_module(f"bloomery.curate.{name}_kernel")


def compiled(name: str) -> ModuleType | None:
    """The same, or None where numba is not installed: for what can be done without, more slowly."""
    return kernel(name) if find_spec("numba") else None
