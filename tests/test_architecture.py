"""The shape of the code: layers point downward, packages say what they are and no more, nothing hides in a drawer."""

import ast
import sys
from pathlib import Path

import pytest

from bloomery.stages import STAGES

ROOT = Path(__file__).parents[1] / "bloomery"
LAYERS = {"core": 0, "classic": 1, "text": 1, "model": 1, "losses": 1, "data": 2, "train": 3, "generate": 3,
          "curate": 4, "pretrain": 4, "finetune": 4, "instruct": 4, "align": 4, "annotate": 4, "evaluate": 4,
          "scaling": 4, "serve": 4, "report": 4}
TOP = 5                         # modules directly in the package: stages, pipeline, cli and what they are made of
DRAWERS = {"util", "utils", "helper", "helpers", "common", "misc", "base"}
REFLECTION = "data/reflection.py"      # a program, not a module of ours: it reads the standard library by importing it
KERNEL = "core/kernels.py"              # of a file that cannot even be read without numba, which is optional
FILES = sorted(ROOT.rglob("*.py"))


def package(name: str) -> str:
    """`bloomery.core.files` -> `core`; a module of the root is its own package, the root itself is the lowest."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else ""


def layer(name: str) -> int:
    return -1 if not name else LAYERS.get(name, TOP)


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")


def own_imports(tree: ast.AST) -> list[tuple[int, str]]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names if alias.name.split(".")[0] == "bloomery"]
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                found.append((node.lineno, "relative"))
            elif node.module and node.module.split(".")[0] == "bloomery":
                names = [alias.name for alias in node.names] if node.module == "bloomery" else [None]
                found += [(node.lineno, f"bloomery.{name}" if name and not name.startswith("_") else node.module)
                          for name in names]
    return found


def misplaced(path: Path, text: str) -> list[str]:
    """Imports that do not point downward, or that stand inside a function."""
    tree, ours, found = ast.parse(text), package(dotted(path)), []
    for line, name in own_imports(tree):
        theirs = package(name)
        allowed = name != "relative" and (theirs == ours or layer(theirs) < layer(ours) or
                                          (layer(ours) == TOP and layer(theirs) == TOP))
        if not allowed:
            found.append(f"{path.name}:{line}: {ours or 'the root'} imports {name}")
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            found += [f"{path.name}:{line}: {name} imported inside a function" for line, name in own_imports(function)]
    return found


def test_the_checker_itself_sees_what_is_wrong():
    def wrong(place: str, text: str) -> int:
        return len(misplaced(ROOT / place, text))

    assert wrong("core/x.py", "from bloomery.data import shards") == 1
    assert wrong("align/x.py", "from bloomery.instruct import run") == 1          # layer 4 beside layer 4
    assert wrong("text/x.py", "import bloomery.model.config") == 1
    assert wrong("data/x.py", "from .batch import Batch") == 1
    assert wrong("train/x.py", "def f():\n    from bloomery.core import files") == 1
    assert wrong("core/x.py", "from bloomery import cli") == 1
    assert wrong("train/x.py", "from bloomery.data.batch import Batch\nfrom bloomery import __version__") == 0
    assert wrong("cli.py", "from bloomery.stages import STAGES\nfrom bloomery.report import run") == 0


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_downward(path):
    assert misplaced(path, path.read_text(encoding="utf-8")) == []


def test_every_package_is_in_the_table_and_holds_a_docstring_only():
    packages = sorted(path.parent for path in ROOT.rglob("*.py") if path.parent != ROOT)
    assert {path.relative_to(ROOT).parts[0] for path in packages} <= set(LAYERS)
    for folder in set(packages):
        body = ast.parse((folder / "__init__.py").read_text(encoding="utf-8")).body
        assert len(body) == 1 and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant), folder


def test_nothing_is_called_utils():
    hidden = [str(path.relative_to(ROOT)) for path in ROOT.rglob("*") if path.stem in DRAWERS]
    assert hidden == []


def test_the_library_does_not_print():
    found = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert found == []


def test_imports_by_name_are_made_in_one_place():
    found = {str(path.relative_to(ROOT)) for path in FILES
             for name in ("import_module", "__import__") if f"{name}(" in path.read_text(encoding="utf-8")}
    assert found == {"stages.py", REFLECTION, KERNEL}


def test_the_program_that_imports_the_standard_library_imports_nothing_else():
    """It runs with -I -S in a process of its own, so that what it reads is as its authors left it."""
    tree = ast.parse((ROOT / REFLECTION).read_text(encoding="utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "." for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in names} <= sys.stdlib_module_names


@pytest.mark.parametrize("verb", STAGES)
def test_every_verb_has_its_module(verb):
    path = ROOT.parent / Path(*STAGES[verb].module.split(".")).with_suffix(".py")
    body = ast.parse(path.read_text(encoding="utf-8")).body
    names = {node.name for node in body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    assert {"Config", "run"} <= names
    assert layer(package(STAGES[verb].module)) == 4 and STAGES[verb].example.startswith(f"bloomery {verb} ")
