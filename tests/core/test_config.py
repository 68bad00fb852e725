"""Configuration: positions, problems in words, command-line values, and TOML that reads back as it was written."""

import math
import tomllib
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, model_validator

from bloomery.core.config import Input, Settings, assign, check, nearest, options, read_assignment, reads
from bloomery.core.errors import ConfigError
from bloomery.core.toml import dump_toml, key_lines, read_toml, replace


class Optimizer(Settings):
    learning_rate: float = Field(1e-3, gt=0, description="peak")
    betas: tuple[float, float] = (0.9, 0.95)


class Model(Settings):
    depth: int = 4
    kind: Literal["dense", "sparse"] = "dense"

    @model_validator(mode="after")
    def _shallow(self):
        if self.depth > 100:
            raise ValueError("depth above 100 is a mistake")
        return self


class Train(Settings):
    data: Input = Field(description="token shards")
    extra: list[Input] = []
    teacher: Input | None = None
    steps: int = Field(10, ge=1)
    note: str = ""
    fast: bool = False
    optimizer: Optimizer = Optimizer()
    model: Model = Model()


def found(values):
    """Problems of `values` as text, each with a place that repeats its keys."""
    config, problems = check(Train, values, locate=lambda keys: f"<{'/'.join(map(str, keys))}>", prefix="base.")
    assert (config is None) == bool(problems)
    return [str(problem) for problem in problems]


def test_lines_of_every_kind_of_key():
    text = '''# a comment
name = "x"
docs.source = "a"

[base]
"quoted key" = 1
text = """
[not a table]
steps = 3
"""
list = [
  1,      # steps = 4
  { inner = 2 },
]
model = { depth = 3 }
[base.optimizer]
lr.peak = 1
[[rule]]
word = "a"
[[rule]]
word = "b"
[rule.more]
x = 1
'''
    lines = key_lines(text)
    expected = {("name",): 2, ("docs", "source"): 3, ("base",): 5, ("base", "quoted key"): 6, ("base", "text"): 7,
                ("base", "list"): 11, ("base", "list", 1, "inner"): 11, ("base", "model", "depth"): 15,
                ("base", "optimizer"): 16, ("base", "optimizer", "lr", "peak"): 17, ("rule", 0, "word"): 19,
                ("rule", 1, "word"): 21, ("rule", 1, "more", "x"): 23}
    assert {keys: lines.get(keys) for keys in expected} == expected
    assert ("base", "steps") not in lines


@pytest.mark.parametrize(("text", "line", "says"), [
    ("[base]\nsteps = 1\nsteps = 2\n", 3, "twice"),
    ("[base]\nsteps = 1\n\n[base]\n", 4, "twice"),
    ("[base]\nsteps = \n", 2, "valid TOML"),
    ("[base]\nsteps = 1\nx = [1,\n", 3, "valid TOML"),
])
def test_toml_errors_name_the_line(tmp_path, text, line, says):
    path = tmp_path / "r.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_toml(path)
    assert caught.value.where == f"{path}:{line}" and says in str(caught.value) and caught.value.exit_code == 2


def test_a_missing_recipe_names_its_neighbours(tmp_path):
    (tmp_path / "quick.toml").write_text("")
    with pytest.raises(ConfigError, match="quick.toml"):
        read_toml(tmp_path / "quik.toml")


def test_good_values_are_taken():
    config, problems = check(Train, {"data": "@x", "steps": 1e3, "optimizer": {"learning_rate": 1, "betas": [0.1, 1]}},
                             locate=str)
    assert not problems and config.steps == 1000 and isinstance(config.steps, int)
    assert config.optimizer.learning_rate == 1.0 and config.optimizer.betas == (0.1, 1.0)


@pytest.mark.parametrize(("values", "expected"), [
    ({"data": "x", "stepz": 1}, "<stepz> base.stepz: unknown key; did you mean steps?"),
    ({"data": "x", "learning_rat": 1},
     "<learning_rat> base.learning_rat: unknown key; did you mean learning_rate? (belongs under base.optimizer)"),
    ({"data": "x", "depth": 1}, "<depth> base.depth: unknown key here (belongs under base.model)"),
    ({"data": "x", "model": {"steps": 1}}, "<model/steps> base.model.steps: unknown key here (belongs under base)"),
    ({"data": "x", "zzz": 1}, "<zzz> base.zzz: unknown key; this section knows data, extra, teacher, steps, note"),
    ({}, "<data> base.data: missing; it must be given (input: token shards)"),
    ({"data": "x", "steps": "100"}, '<steps> base.steps: must be a whole number, is "100"'),
    ({"data": "x", "steps": 1.5}, "<steps> base.steps: must be a whole number, is 1.5"),
    ({"data": "x", "steps": True}, "<steps> base.steps: must be a whole number, is true"),
    ({"data": "x", "steps": 0}, "<steps> base.steps: must be at least 1, is 0"),
    ({"data": "x", "note": 3}, "<note> base.note: must be text in quotes, is 3"),
    ({"data": "x", "fast": "yes"}, '<fast> base.fast: must be true or false, is "yes"'),
    ({"data": "x", "fast": 1}, "<fast> base.fast: must be true or false, is 1"),
    ({"data": "x", "extra": "y"}, '<extra> base.extra: must be an array [...], is "y"'),
    ({"data": "x", "extra": ["y", 2]}, "<extra/1> base.extra[1]: must be text in quotes, is 2"),
    ({"data": "x", "model": 3}, "<model> base.model: must be a table, is 3"),
    ({"data": "x", "optimizer": {"learning_rate": -1}},
     "<optimizer/learning_rate> base.optimizer.learning_rate: must be greater than 0.0, is -1"),
    ({"data": "x", "model": {"kind": "dens"}},
     "<model/kind> base.model.kind: must be 'dense' or 'sparse', is \"dens\"; did you mean dense?"),
    ({"data": "x", "model": {"depth": 101}}, "<model> base.model: depth above 100 is a mistake"),
])
def test_every_mistake_in_words(values, expected):
    problems = found(values)
    assert len(problems) == 1 and problems[0].startswith(expected)


def test_all_problems_at_once():
    assert len(found({"stepz": 1, "fast": 2, "model": {"dept": 3, "kind": "x"}})) == 5       # and data is missing


def test_reads_finds_every_input_and_nothing_else():
    config = Train(data="a", extra=["b", "@c"], note="d")
    assert reads(config) == [(("data",), "a"), (("extra", 0), "b"), (("extra", 1), "@c")]
    assert (("teacher",), "t") in reads(Train(data="a", teacher="t"))


def test_reads_looks_into_every_shape():
    class Inner(Settings):
        source: Input | list[Input] = ""

    class Outer(Settings):
        named: dict[str, Input] = {}
        rows: list[Inner] = []
        pair: tuple[Inner, ...] = ()
        one: Inner | None = None

    config = Outer(named={"x": "a"}, rows=[Inner(source="b")], pair=(Inner(source=["c", "d"]),), one=Inner(source="e"))
    assert [value for _, value in reads(config)] == list("abcde")
    assert reads(config)[2] == (("pair", 0, "source", 0), "c")


@pytest.mark.parametrize(("text", "expected"), [
    ("steps=20", {"steps": 20}), ("optimizer.learning_rate=1e-3", {"optimizer": {"learning_rate": 1e-3}}),
    ("note=100", {"note": "100"}), ("note=true", {"note": "true"}), ("note=a=b", {"note": "a=b"}),
    ("data=some/path.txt", {"data": "some/path.txt"}), ('data="quoted"', {"data": "quoted"}),
    ("extra=a,b", {"extra": ["a", "b"]}), ('extra=["a"]', {"extra": ["a"]}), ("fast=True", {"fast": True}),
    ("optimizer.betas=0.1,0.2", {"optimizer": {"betas": [0.1, 0.2]}}),
    ("teacher=5", {"teacher": "5"}), ("unknown=5", {"unknown": 5}),
])
def test_command_line_values(text, expected):
    table = {}
    assign(table, *read_assignment(text), Train)
    assert table == expected


def test_an_assignment_replaces_what_was_no_table():
    table = {"model": "tiny"}
    assign(table, ("model", "depth"), "3", Train)
    assert table == {"model": {"depth": 3}}


@pytest.mark.parametrize("text", ["steps", "=3", "a..b=1"])
def test_what_is_no_assignment(text):
    with pytest.raises(ConfigError, match="key=value"):
        read_assignment(text)


def test_help_rows():
    rows = {option.name: option for option in options(Train)}
    assert list(rows)[:2] == ["data", "extra"] and list(rows)[-1] == "model.kind"
    assert (rows["data"].kind, rows["data"].default, rows["data"].description) == ("input", "required", "token shards")
    assert rows["extra"].kind == "list of input" and rows["teacher"].kind == "input or none"
    assert rows["model.kind"].kind == "dense | sparse" and rows["optimizer.learning_rate"].default == "0.001"


def test_nearest():
    assert nearest("learning-rate", ["learning_rate", "steps"]) == "learning_rate"
    assert nearest("xyz", ["learning_rate", "steps"]) is None


leaf = st.booleans() | st.integers(-2**63, 2**63 - 1) | st.floats(allow_nan=False) | \
    st.text(st.characters(exclude_categories=("Cs",)))
values = st.recursive(leaf, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(
    st.characters(exclude_categories=("Cs",)), max_size=5), inner, max_size=3), max_leaves=8)


@given(st.dictionaries(st.text(st.characters(exclude_categories=("Cs",)), max_size=5), values, max_size=4))
def test_toml_reads_back_as_written(table):
    assert tomllib.loads(dump_toml(table)) == table


def test_toml_leaves_none_out_and_keeps_infinity():
    assert dump_toml({"a": None, "b": math.inf, "c": {"d": [1, None]}}) == "b = inf\n\n[c]\nd = [1]\n"


def test_replace_changes_texts_at_every_depth():
    assert replace({"a": ["x", {"b": ("x", 1)}]}, str.upper) == {"a": ["X", {"b": ["X", 1]}]}
