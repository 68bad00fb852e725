"""Compiled loops are kept until anything they are made of changes."""

import os

import pytest

from bloomery.core.errors import InputError
from bloomery.curate import native


@pytest.fixture
def package(tmp_path):
    """A kernel that imports two files, one of which imports a third; all an hour old, with a compiled loop of now."""
    sources = {"a_kernel": "from bloomery.curate import more, words\nfrom bloomery.curate.kinds import LETTER\n",
               "kinds": "import numpy\nfrom bloomery.curate.deeper import X\n", "deeper": "X = 1\n",
               "words": "", "more": "", "stranger": "Y = 2\n"}
    (tmp_path / "__pycache__").mkdir()
    for name, source in sources.items():
        (tmp_path / f"{name}.py").write_text(source)
        os.utime(tmp_path / f"{name}.py", (1e9, 1e9))
    for file in ("a_kernel.scan-3.py311.nbi", "b_kernel.scan-3.py311.nbi"):
        (tmp_path / "__pycache__" / file).write_bytes(b"")
        os.utime(tmp_path / "__pycache__" / file, (1e9 + 60, 1e9 + 60))
    return tmp_path


@pytest.mark.parametrize(("changed", "stays"), [("a_kernel", False), ("words", False), ("deeper", False),
                                                ("stranger", True)])
def test_what_was_made_before_a_change_is_removed(package, changed, stays):
    assert native.kept(package, "a_kernel")
    os.utime(package / f"{changed}.py", (1e9 + 120, 1e9 + 120))
    assert native.kept(package, "a_kernel") is stays
    assert sorted(path.name[0] for path in (package / "__pycache__").iterdir()) == (["a", "b"] if stays else ["b"])


def test_a_real_kernel_is_made_of_what_it_imports():
    assert {path.name for path in native.made_of(native.FOLDER, "line_kernel")} >= {
        "line_kernel.py", "scan_kernel.py", "scan.py", "characters.py", "words.py", "lines.py"}


def test_without_numba_the_hint_says_what_to_install(monkeypatch):
    monkeypatch.setattr(native, "find_spec", lambda name: None)
    assert native.compiled("scan") is None
    with pytest.raises(InputError, match="needs numba") as error:
        native.kernel.__wrapped__("minhash")
    assert "bloomery[curate]" in error.value.hint
