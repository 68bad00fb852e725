"""The standard-library corpus: what is in it, what is not, and that it is the same in every process."""

import hashlib
import os
import subprocess
import sys

import pytest

from bloomery.core.files import Quarantine
from bloomery.data import reflection, stdlib

DIGEST = """
import hashlib, inspect
inspect.getfile = inspect.getsource = None                  # as torch does: what a process has patched must not show
from bloomery.core.files import Quarantine
from bloomery.data import stdlib
documents = hashlib.sha256(repr([(d.source, d.id) for d in stdlib.documents(Quarantine())]).encode()).hexdigest()
print(documents, hashlib.sha256(repr(list(stdlib.objects())).encode()).hexdigest())
"""


@pytest.fixture(scope="module")
def documents():
    return list(stdlib.documents(Quarantine()))


@pytest.fixture(scope="module")
def objects():
    return {item.name: item for item in stdlib.objects()}


def test_corpus_has_sources_topics_and_documentation_of_c_modules(documents):
    by_source = {document.source: document.text for document in documents}
    assert "def dedent(text):" in by_source["stdlib/textwrap.py"]
    assert "stdlib/encodings/cp037.py" in by_source
    assert "truth" in by_source["topics/booleans"].lower() or "boolean" in by_source["topics/booleans"].lower()
    assert "sqrt(x, /)\n    Return the square root of x." in by_source["runtime/math"]
    assert len(by_source) == len(documents)
    assert 9e6 < sum(len(document.text.encode()) for document in documents) < 20e6


def test_corpus_has_no_tests_no_packages_and_nothing_of_this_machine(documents):
    for document in documents:
        assert not {"test", "tests", "site-packages", "idle_test", "_bundled"} & set(document.source.split("/"))
        assert str(reflection.root()) not in document.text
        assert not (document.source.startswith("runtime/") and reflection.ADDRESS.search(document.text))


def test_objects_have_their_public_names(objects):
    for name in ("textwrap.dedent", "str.join", "pathlib.Path.exists", "os.path.join", "os.listdir", "asyncio.sleep",
                 "len", "math.sqrt", "heapq.heappush", "collections.OrderedDict.move_to_end"):
        assert objects[name].doc
    for name in ("posixpath.join", "posix.listdir", "asyncio.tasks.sleep", "textwrap.re", "json.decoder.scanner"):
        assert name not in objects
    assert not [name for name in objects if name.startswith(("tkinter", "turtle", "idlelib", "test", "antigravity"))]


def test_parameters_leave_out_self_and_mark_variadic_ones(objects):
    assert objects["textwrap.indent"].parameters == ("text", "prefix", "predicate")
    assert objects["pathlib.Path.exists"].parameters == ()
    assert objects["os.path.join"].parameters == ("a", "*p")
    assert objects["datetime.datetime.combine"].kind == "method"
    assert objects["functools.reduce"].parameters is None


def test_documents_and_objects_do_not_depend_on_the_process(documents, objects):
    environment = os.environ | {"PYTHONHASHSEED": "12345"}
    done = subprocess.run([sys.executable, "-c", DIGEST], env=environment, capture_output=True, text=True, check=True)
    ours = [hashlib.sha256(repr(value).encode()).hexdigest() for value in
            ([(document.source, document.id) for document in documents], list(objects.values()))]
    assert done.stdout.split() == ours


def test_undecodable_sources_are_quarantined(tmp_path, monkeypatch):
    (tmp_path / "latin.py").write_bytes("# -*- coding: latin-1 -*-\n# é\n".encode("latin-1"))
    (tmp_path / "broken.py").write_bytes(b"# \xff\n")
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "left_out.py").write_text("1\n")
    monkeypatch.setattr(reflection, "root", lambda: tmp_path)
    quarantine = Quarantine()
    assert list(stdlib.module_sources(quarantine)) == [("stdlib/latin.py", "# -*- coding: latin-1 -*-\n# é\n")]
    assert [entry["where"] for entry in quarantine.entries] == ["stdlib/broken.py"]


def test_fingerprint_follows_the_sources(tmp_path, monkeypatch):
    monkeypatch.setattr(reflection, "root", lambda: tmp_path)
    (tmp_path / "a.py").write_text("1\n")
    before = stdlib.fingerprint()
    (tmp_path / "a.py").write_text("2\n")
    assert stdlib.fingerprint() != before
