"""A mixture draws its tasks by their shares, in the order its curriculum says, as a function of seed and place."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bloomery.core.errors import ConfigError, InputError
from bloomery.core.files import Quarantine, write_jsonl
from bloomery.core.records import Conversation, Message
from bloomery.data.formats import conversation_row
from bloomery.instruct.mixture import MARKER, Mixture, MixtureConfig, forms, mixed, pooled, reasoned
from bloomery.instruct.paraphrases import STEPS


def row(task: str, name: str, *, thinking: str = "", weight: float = 1.0) -> Conversation:
    turns = (Message("user", f"ask {name}"), Message("assistant", f"say {name}", thinking=thinking))
    return Conversation(turns, task, f"{task}-{name}", weight=weight)


def rows_of(task: str, count: int, **more) -> list[Conversation]:
    return [row(task, str(i), **more) for i in range(count)]


def config(**options) -> MixtureConfig:
    return MixtureConfig(**options)


# --- shares -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("options", "expected"), [
    ({}, [0.1, 0.9]), ({"temperature": 2}, [0.25, 0.75]), ({"temperature": 1e9}, [0.5, 0.5]), ({"cap": 10}, [0.5, 0.5]),
    ({"cap": 40, "temperature": 2}, [1 / 3, 2 / 3]),
    ({"sources": {"a": {"data": "x", "weight": 9}}}, [0.5, 0.5])])
def test_shares_are_those_of_sizes_cap_temperature_and_weight(options, expected):
    mixture = Mixture(rows_of("a/one", 10) + rows_of("b", 90), config(**options), seed=0)
    assert mixture.shares == pytest.approx(dict(zip(("a/one", "b"), expected, strict=True)))


def test_what_is_drawn_is_what_the_shares_say_and_is_counted():
    pool = rows_of("a", 10) + rows_of("b", 90)
    mixture = Mixture(pool, config(temperature=2), seed=3)
    drawn = Counter(pool[i].task for i in mixture.samples(0, 400))
    assert drawn == {"a": 100, "b": 300}
    assert mixture.drawn(400) == {"a": (100, 10.0), "b": (300, 300 / 90)}
    assert Counter(mixture.samples(0, 400)[:40].tolist()).most_common(1)[0][1] <= 2     # nothing twice before all once


def test_any_step_can_be_asked_for_directly():
    pool = rows_of("a", 7) + rows_of("b", 20, thinking="because")
    pool = [form for record in pool for form in forms(record, 0.5, 0)]
    mixture = Mixture(pool, config(), seed=1)
    whole = mixture.between(0, 90)
    assert np.concatenate([mixture.samples(step, 9) for step in range(10)]).tolist() == whole.tolist()
    assert Mixture(pool, config(), seed=1).samples(7, 9).tolist() == whole[63:72].tolist()
    assert Mixture(pool, config(), seed=2).between(0, 90).tolist() != whole.tolist()


def test_the_order_of_a_task_does_not_depend_on_the_others():
    alone, beside = rows_of("b", 20), rows_of("a", 20) + rows_of("b", 20)
    first = [alone[i].id for i in Mixture(alone, config(), seed=0).between(0, 20)]
    second = [beside[i].id for i in Mixture(beside, config(), seed=0).between(0, 40) if beside[i].task == "b"]
    assert first == second


def test_epochs_visit_everything_once_in_orders_of_their_own():
    pool = rows_of("a", 25)
    epochs = [[record.id for record in mixed(pool, config(), seed=0, epoch=epoch)] for epoch in range(3)]
    assert all(sorted(epoch) == sorted(record.id for record in pool) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert epochs[1] == [record.id for record in mixed(pool, config(), seed=0, epoch=1)]


def test_known_samples_never_change():
    """A checkpoint of an earlier version goes on with the same data."""
    pool = [form for task, size in (("a", 4), ("b", 9)) for record in rows_of(task, size, thinking="so")
            for form in forms(record, 0.5, 0)]
    assert Mixture(pool, config(temperature=2), seed=7).between(30, 42).tolist() == \
        [19, 6, 21, 4, 15, 23, 1, 10, 3, 17, 13, 2]


# --- curriculum ---------------------------------------------------------------------------------------------------

@given(weights=st.lists(st.integers(0, 4), min_size=1, max_size=12), seed=st.integers(0, 99))
def test_quality_first_gives_every_example_once_the_best_first(weights, seed):
    pool = [row("a", str(i), weight=float(weight)) for i, weight in enumerate(weights)]
    drawn = mixed(pool, config(curriculum="quality_first"), seed=seed, epoch=1)
    assert [record.weight for record in drawn] == sorted(weights, reverse=True)
    assert {record.id for record in drawn} == {record.id for record in pool}


@given(weights=st.lists(st.floats(0, 5), min_size=1, max_size=12).filter(lambda given: sum(given) > 0.1),
       seed=st.integers(0, 99))
def test_quality_often_draws_each_example_as_often_as_it_is_due(weights, seed):
    pool = [row("a", str(i), weight=weight) for i, weight in enumerate(weights)]
    drawn = Counter(record.id for record in mixed(pool, config(curriculum="quality_often"), seed=seed))
    for record in pool:
        due = record.weight / sum(weights) * len(pool)
        assert np.floor(due - 1e-9) <= drawn[record.id] <= np.ceil(due + 1e-9)


def test_quality_often_is_right_over_epochs_and_does_not_group_repeats():
    pool = [row("a", str(i), weight=weight) for i, weight in enumerate([3.0, 1.0, 0.6, 0.4])]
    mixture = Mixture(pool, config(curriculum="quality_often"), seed=0)
    drawn = Counter(mixture.between(0, 4000).tolist())
    assert [drawn[i] / 4000 for i in range(4)] == pytest.approx([0.6, 0.2, 0.12, 0.08], abs=0.01)
    assert any(mixture.between(4 * e, 4 * e + 4)[0] != 0 for e in range(8))


def test_equal_qualities_are_drawn_once_each_whatever_the_curriculum():
    pool = rows_of("a", 30)
    for curriculum in ("none", "quality_first", "quality_often"):
        drawn = Mixture(pool, config(curriculum=curriculum), seed=5).between(0, 60).tolist()
        assert sorted(drawn[:30]) == sorted(drawn[30:]) == list(range(30))
        assert drawn[:30] != drawn[30:]


def test_a_weight_is_used_once():
    assert config().scales_loss
    assert not config(curriculum="quality_first").scales_loss and not config(curriculum="quality_often").scales_loss


def test_a_task_that_weighs_nothing_cannot_be_drawn_by_quality():
    with pytest.raises(InputError, match="no example of a task"):
        Mixture(rows_of("a", 3, weight=0.0), config(curriculum="quality_often"), seed=0)


# --- reasoning ----------------------------------------------------------------------------------------------------

def test_reasoning_is_shown_where_the_draw_says_and_there_is_one():
    assert reasoned(np.array([0.1, 0.6, 0.2, 0.5]), np.array([1, 1, 0, 1]), 0.5).tolist() == [True, False, False, False]
    assert reasoned(np.array([0.0, 0.99]), np.array([1, 1]), 0).tolist() == [False, False]
    assert reasoned(np.array([0.0, 0.99]), np.array([1, 1]), 1).tolist() == [True, True]
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="ratio"):
            reasoned(np.array([0.5]), np.array([1]), wrong)


def test_an_answer_with_its_reasoning_has_two_forms():
    system = Message("system", "Be brief.")
    record = row("a", "1", thinking="Two and two.")
    direct, chain = forms(replace(record, messages=(system, *record.messages)), 0.5, 0)
    assert direct.messages == (system, Message("user", "ask 1"), Message("assistant", "say 1"))
    assert chain.messages[0] == system
    asked, step = chain.messages[1].content.split("\n")
    assert asked == "ask 1" and step in STEPS
    assert chain.messages[2] == Message("assistant", f"Two and two.\n{MARKER}say 1")
    assert forms(record, None, 0) == [record]                               # the template shows it, or does not
    assert forms(row("a", "1"), 0.5, 0) == [row("a", "1")]


@pytest.mark.parametrize("ratio", [0.0, 0.3, 1.0])
def test_the_ratio_holds_and_an_example_is_drawn_in_one_form_an_epoch(ratio):
    pool = [form for record in rows_of("a", 1000, thinking="so") for form in forms(record, ratio, 0)]
    mixture = Mixture(pool, config(cot_ratio=ratio), seed=0)
    first, second = (mixture.between(epoch * 1000, epoch * 1000 + 1000) for epoch in (0, 1))
    assert np.mean(first % 2) == pytest.approx(ratio, abs=0.05)             # chains stand at odd places
    assert sorted(first // 2) == list(range(1000))
    assert (set(first) == set(second)) == (ratio in (0, 1))                 # the other epoch, the other forms


def test_a_form_that_was_dropped_leaves_the_other():
    both = [form for record in rows_of("a", 6, thinking="so") for form in forms(record, 0.5, 0)]
    pool = both[:1] + both[3:]                                              # the first two have lost one form each
    drawn = Mixture(pool, config(), seed=0).between(0, 6).tolist()
    assert {0, 1} <= set(drawn) and len(set(drawn)) == 6
    assert Mixture(pool, config(), seed=0).drawn(6) == {"a": (6, 1.0)}


# --- the pool -----------------------------------------------------------------------------------------------------

@pytest.fixture()
def files(tmp_path):
    write_jsonl(tmp_path / "sums.jsonl", map(conversation_row, rows_of("add", 30) + rows_of("sub", 10)))
    write_jsonl(tmp_path / "facts.jsonl", [{"prompt": f"What is {i}?", "completion": f"It is {i}.<end>"}
                                           for i in range(20)])
    return tmp_path


def test_tasks_bear_the_names_of_their_source(files):
    sources = {"sums": {"data": str(files / "sums.jsonl")},
               "facts": {"data": str(files / "facts.jsonl"), "ends": "<end>"}}
    pool = pooled(config(sources=sources), Quarantine(), seed=0)
    assert Counter(record.task for record in pool) == {"sums/add": 30, "sums/sub": 10, "facts": 20}
    assert next(record for record in pool if record.task == "facts").messages[-1].content == "It is 0."
    one = {"sums": {"data": str(files / "sums.jsonl"), "task": "sums"}}
    assert {record.task for record in pooled(config(sources=one), Quarantine(), seed=0)} == {"sums"}


def test_an_answer_of_which_nothing_is_left_is_set_aside(files):
    write_jsonl(files / "ends.jsonl", [{"prompt": "Who?", "completion": "<end>"},
                                       {"prompt": "Where?", "completion": "Here.<end>"}])
    quarantine = Quarantine()
    pool = pooled(config(sources={"ends": {"data": str(files / "ends.jsonl"), "ends": "<end>"}}), quarantine, seed=0)
    assert [record.messages[-1].content for record in pool] == ["Here."]
    assert quarantine.reasons == {"an empty answer before <end>": 1}


def test_examples_per_task_keeps_some_chosen_by_hash(files):
    sources = {"sums": {"data": str(files / "sums.jsonl")}}
    pool = pooled(config(sources=sources, examples_per_task=12), Quarantine(), seed=0)
    assert Counter(record.task for record in pool) == {"sums/add": 12, "sums/sub": 10}
    other = pooled(config(sources=sources, examples_per_task=12), Quarantine(), seed=1)
    assert {record.id for record in pool} != {record.id for record in other}


def test_what_overlaps_with_evaluation_data_is_set_aside_with_its_reason(files):
    question = "which of the nine planets was found by a man who looked for it with pencil and paper"
    write_jsonl(files / "test.jsonl", [{"query": question, "gold": 8}])
    write_jsonl(files / "leak.jsonl", [{"prompt": f"Tell me {question}?", "completion": "Neptune"},
                                       {"prompt": "Something else?", "completion": "Yes"}])
    quarantine = Quarantine()
    pool = pooled(config(sources={"leak": {"data": str(files / "leak.jsonl")}},
                         evaluation=[str(files / "test.jsonl")]), quarantine, seed=0)
    assert [record.messages[-1].content for record in pool] == ["Yes"]
    assert quarantine.reasons == {"overlaps with evaluation data": 1}


def test_a_mixture_of_nothing_is_an_error(files):
    with pytest.raises(InputError, match="no conversation is left"):
        pooled(config(), Quarantine(), seed=0)
    with pytest.raises(InputError, match="mixture of nothing"):
        Mixture([], config(), seed=0)
    with pytest.raises((InputError, ConfigError), match="slash"):
        pooled(config(sources={"a/b": {"data": str(files / "sums.jsonl")}}), Quarantine(), seed=0)
