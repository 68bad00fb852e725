"""Compiled loops are kept until anything they are made of changes."""

import os

import pytest

from bloomery.core import kernels
from bloomery.core.errors import InputError


@pytest.fixture
def package(tmp_path):
    """A kernel that imports two files, one of which imports a third, and another package's kernel, which imports one.

    All are an hour old, with a compiled loop of now.
    """
    sources = {"own/a_kernel": "from bloomery.own import more, words\nfrom bloomery.own.kinds import LETTER\n"
                               "from bloomery.other.b_kernel import B\nfrom bloomery.other.far import FAR\n",
               "own/kinds": "import numpy\nfrom bloomery.own.deeper import X\n", "own/deeper": "X = 1\n",
               "own/words": "", "own/more": "", "own/stranger": "Y = 2\n",
               "other/b_kernel": "from bloomery.other.lanes import L\n", "other/lanes": "", "other/far": ""}
    for name, source in sources.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.py").write_text(source)
        os.utime(tmp_path / f"{name}.py", (1e9, 1e9))
    (tmp_path / "own" / "__pycache__").mkdir()
    for file in ("a_kernel.scan-3.py311.nbi", "c_kernel.scan-3.py311.nbi"):
        (tmp_path / "own" / "__pycache__" / file).write_bytes(b"")
        os.utime(tmp_path / "own" / "__pycache__" / file, (1e9 + 60, 1e9 + 60))
    return tmp_path


@pytest.mark.parametrize(("changed", "stays"), [
    ("own/a_kernel", False), ("own/words", False), ("own/deeper", False), ("other/b_kernel", False),
    ("other/lanes", False), ("other/far", True), ("own/stranger", True)])
def test_what_was_made_before_a_change_is_removed(package, changed, stays):
    assert kernels.kept(package / "own", "a_kernel")
    os.utime(package / f"{changed}.py", (1e9 + 120, 1e9 + 120))
    assert kernels.kept(package / "own", "a_kernel") is stays
    names = sorted(path.name[0] for path in (package / "own" / "__pycache__").iterdir())
    assert names == (["a", "c"] if stays else ["c"])


@pytest.mark.parametrize(("package_", "file", "parts"), [
    ("curate", "line_kernel", {"line_kernel", "scan_kernel", "scan", "characters", "words", "lines"}),
    ("generate", "draw_kernel", {"draw_kernel", "decode_kernel", "lanes", "native"}),
    ("model", "decode_kernel", {"decode_kernel", "lanes", "native"})])
def test_a_real_kernel_is_made_of_what_it_imports(package_, file, parts):
    assert {path.stem for path in kernels.made_of(kernels.ROOT / package_, file)} >= parts


def test_without_numba_the_hint_says_what_to_install(monkeypatch):
    monkeypatch.setattr(kernels, "find_spec", lambda name: None)
    kernels.kernel.cache_clear()
    try:
        assert kernels.kernel("curate/scan") is None
        with pytest.raises(InputError, match="minhash needs numba") as error:
            kernels.needed("curate/minhash")
    finally:
        kernels.kernel.cache_clear()
    assert "bloomery[curate]" in error.value.hint
