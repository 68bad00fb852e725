"""What the interpreter says of itself, as a program of its own: `python -I -S reflection.py runtime|objects`.

Importing the whole standard library has side effects, and what a process has imported before may have patched it (torch
replaces `inspect.getfile`, transformers adds methods to `logging.Logger`).  So `data/stdlib.py` runs this file in a
fresh, isolated interpreter and reads JSON lines; nothing here imports anything but the standard library.
"""

import importlib
import inspect
import io
import json
import re
import sys
import sysconfig
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from types import ModuleType

NOT_CORPUS = re.compile(r"(^|/)(site-packages|__pycache__|test|tests|idle_test|_bundled|config-[^/]*)/|^_sysconfigdata")
NOT_MODULES = re.compile(r"(^|/)(_{1,2}\w*|test\w*|this|antigravity|idlelib|tkinter|turtle|turtledemo|lib2to3|distutils"
                         r"|encodings|ensurepip|pydoc_data|msilib|sre_\w+|xx\w*)(/|$)")
TEST_EXTENSIONS = re.compile(r"_?test|_?xx|_ctypes_test")
ADDRESS = re.compile(r"\bat 0x[0-9a-fA-F]+")
HOMES = {"posixpath": "os.path", "ntpath": "os.path", "posix": "os", "nt": "os"}         # where such names are public


def root() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def source_files() -> list[str]:
    """Names of the library's Python files relative to its folder, sorted."""
    names = (path.relative_to(root()).as_posix() for path in root().rglob("*.py"))
    return sorted(name for name in names if not NOT_CORPUS.search(name))


def runtime_docs() -> Iterator[dict]:
    """What built-in and extension modules say of themselves: they have no Python source to read."""
    folder = root() / "lib-dynload"
    extensions = {path.name.partition(".")[0] for path in folder.iterdir()} if folder.is_dir() else set()
    for name in sorted(extensions | set(sys.builtin_module_names)):
        if not TEST_EXTENSIONS.match(name) and (module := load(name)):
            yield {"source": f"runtime/{name}", "text": describe_module(module)}


def load(name: str) -> ModuleType | None:
    """Import a module in silence; None if it cannot be imported here (another system's, or an optional library)."""
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        with suppress(Exception, SystemExit):               # whatever a module does on import, it is not ours to mend
            return importlib.import_module(name)
    return None


def describe_module(module: ModuleType) -> str:
    """A module as plain text in the manner of `help()`: its doc, then functions and classes with signature and doc."""
    parts = [f"{module.__name__}\n\n{inspect.getdoc(module) or ''}".rstrip()]
    for name, member in sorted(vars(module).items()):
        if name.startswith("_"):
            continue
        if inspect.isclass(member):
            parts.append(describe(f"class {name}", member))
            parts += [describe(f"    {name}.{key}", method, "    ") for key, method in public_methods(member)]
        elif inspect.isroutine(member):
            parts.append(describe(name, member))
    return "\n\n".join(part for part in parts if part) + "\n"


def describe(title: str, member: object, indent: str = "") -> str:
    """One entry: name, signature, indented doc; "" when it has no doc, or one that names a memory address."""
    doc = inspect.cleandoc(member.__doc__) if isinstance(member.__doc__, str) else ""
    entry = f"{title}{signature(member) or ''}\n" + textwrap.indent(doc, indent + "    ")
    return entry.rstrip() if doc and not ADDRESS.search(entry) else ""


def signature(thing: object) -> inspect.Signature | None:
    """How a thing is called, if it says so: C text signatures may be missing or name what does not exist here."""
    with suppress(Exception):
        return inspect.signature(thing)
    return None


def objects() -> Iterator[dict]:
    """Public objects of the importable standard library, each once, under the shortest public name it has.

    A module is the home of what says so (`__module__`), of what its C twin `_name` defines, and of what its submodules
    define and it lists in `__all__`; so `asyncio.sleep`, not `asyncio.tasks.sleep`.
    """
    seen: set[int] = set()
    for module_name in ["builtins", *sorted(module_names(), key=lambda name: (name.count("."), name))]:
        module = load(module_name)
        for name in public_names(module) if module else ():
            thing = getattr(module, name, None)
            if not (inspect.isclass(thing) or inspect.isroutine(thing)) or not is_home(module_name, module, thing):
                continue
            if id(thing) not in seen:                       # the modules keep it alive, so its id stays its own
                seen.add(id(thing))
                prefix = "" if module_name == "builtins" else module_name + "."
                yield from library_objects(prefix + name, module_name, thing)


def module_names() -> set[str]:
    """Public importable names of modules; those that open windows, print or are private to others left out."""
    paths = {name.removesuffix(".py").removesuffix("/__init__") for name in source_files()}
    paths |= {name for name in sys.builtin_module_names} | {"os/path", "math", "array", "zlib", "unicodedata", "select"}
    paths |= {path.name.partition(".")[0] for path in (root() / "lib-dynload").glob("*")}
    return {path.replace("/", ".") for path in paths if not NOT_MODULES.search(path) and path not in HOMES}


def public_names(module: ModuleType) -> list[str]:
    listed = getattr(module, "__all__", None) or vars(module)
    return sorted(name for name in listed if not name.startswith("_"))


def is_home(module_name: str, module: ModuleType, thing: object) -> bool:
    owner = getattr(thing, "__module__", None) or ""
    owner = HOMES.get(owner, owner)
    exported = thing.__name__ in getattr(module, "__all__", ()) if hasattr(thing, "__name__") else False
    return owner in (module_name, "_" + module_name) or (exported and owner.startswith(module_name + "."))


def library_objects(name: str, module: str, thing: object) -> Iterator[dict]:
    """The object itself, and the public methods of a class."""
    kind = "class" if inspect.isclass(thing) else "function"
    yield record(name, module, kind, thing, parameters(thing))
    for key, method in public_methods(thing) if kind == "class" else ():
        bound = not isinstance(vars(thing)[key], staticmethod)
        yield record(f"{name}.{key}", module, "method", method, parameters(method, bound=bound))


def record(name: str, module: str, kind: str, thing: object, names: tuple[str, ...] | None) -> dict:
    return {"name": name, "module": module, "kind": kind, "doc": own_doc(thing), "parameters": names}


def public_methods(owner: type) -> Iterator[tuple[str, object]]:
    """The methods a class defines itself, sorted by name; static and class methods as plain functions."""
    for key, value in sorted(vars(owner).items()):
        function = getattr(value, "__func__", value)
        if not key.startswith("_") and inspect.isroutine(function):
            yield key, function


def own_doc(thing: object) -> str:
    """What an object says of itself, without what it inherits; "" if it names a memory address."""
    doc = getattr(thing, "__doc__", None)
    doc = inspect.cleandoc(doc) if isinstance(doc, str) else ""
    return "" if ADDRESS.search(doc) else doc


def parameters(thing: object, *, bound: bool = False) -> tuple[str, ...] | None:
    """Names of parameters, `*` and `**` before the variadic ones; `bound` leaves out the first, private
    ones are left out too. None: not known."""
    if (found := signature(thing)) is None:
        return None
    marks = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    names = tuple(marks.get(parameter.kind, "") + parameter.name for parameter in found.parameters.values())
    names = names[1:] if bound and names and not names[0].startswith("*") else names
    return tuple(name for name in names if not name.startswith("_"))


if __name__ == "__main__":
    lines = [json.dumps(row) for row in {"runtime": runtime_docs, "objects": objects}[sys.argv[1]]()]
    sys.stdout.write("\n".join(lines))
