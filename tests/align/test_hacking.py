"""Alarms: each is raised by its planted figure, once, and by nothing else; gold decides when to stop."""

import json
import random

import pytest

from bloomery.align.hacking import ALARMS, Alarms, AlarmsConfig, GoldWatch, repetition, sentence
from bloomery.align.overoptimization import Curve

STEPS = 48


def calm(step, noise=0.02):
    """A run that learns as it should."""
    wobble = random.Random(step).uniform(-noise, noise)
    return {"reward": 0.3 + 0.005 * step + wobble, "reward_std": 0.4, "frac_reward_zero_std": 0.25, "entropy": 1.2,
            "objective/kl": 0.05 * step, "completions/mean_length": 100 + 40 * wobble, "completions/clipped_ratio": 0.1,
            "completions/repetition": 0.05, "rewards/disagreement": 0.2 + wobble, "rewards/failures": 0.0, "gold": 0.3
            + 0.004 * step}


PLANTED = {
    "length": (lambda step: {"completions/mean_length": 100 + 5 * step}, "reward rises only with length"),
    "repetition": (lambda step: {"completions/repetition": 0.02 * step}, "repeat themselves"),
    "disagreement": (lambda step: {"rewards/disagreement": 0.2 + 0.01 * step}, "reward models disagree"),
    "entropy": (lambda step: {"entropy": 1.2 * 0.9**step}, "almost stopped exploring"),
    "zero_std": (lambda step: {"frac_reward_zero_std": 0.95}, "nothing is learned from those"),
    "kl": (lambda step: {"objective/kl": 0.5 * step}, "beyond 10: raise beta"),
    "gold": (lambda step: {"gold": 0.5 - 0.005 * step}, "the reward is being gamed"),
    "cut_off": (lambda step: {"completions/clipped_ratio": 0.7}, "cut off before they end"),
    "failures": (lambda step: {"rewards/failures": 0.3}, "the reward itself fails on 30%"),
}


def heard(figures):
    alarms = Alarms(AlarmsConfig(kl=10))
    return [said for step in range(STEPS) for said in alarms.heard(figures(step))]


def test_a_run_that_learns_raises_none():
    assert heard(calm) == []


@pytest.mark.parametrize("name", ALARMS)
def test_each_alarm_is_raised_by_what_it_is_for_once_and_alone(name):
    planted, words = PLANTED[name]
    found = heard(lambda step: calm(step) | planted(step))
    assert len(found) == 1 and words in found[0]


def test_longer_answers_whose_reward_rises_for_other_reasons_are_let_be():
    def figures(step):                                          # length grew early, the reward rises later
        return calm(step) | {"completions/mean_length": 100 + 100 * random.Random(step).random(), "reward": 0.01 * step}

    assert not any("length" in said for said in heard(figures))


def test_an_alarm_that_cleared_is_said_again():
    def figures(step):
        return calm(step) | {"completions/clipped_ratio": 0.9 if step < 10 or step > 35 else 0.1}

    assert len(heard(figures)) == 2


def test_ppos_names_are_known_and_what_is_no_number_is_left_out():
    alarms = Alarms(AlarmsConfig(kl=1))
    said = [one for step in range(12) for one in alarms.heard({"objective/rlhf_reward": 1.0, "objective/kl": 5.0,
                                                               "policy/entropy_avg": float("nan")})]
    assert len(said) == 1 and "5 nats" in said[0] and all("entropy" not in row for row in alarms.rows)


def test_a_restored_watch_goes_on_as_if_nothing_had_been():
    config = AlarmsConfig(kl=10)

    def figures(step):
        return calm(step) | PLANTED["entropy"][0](step) | PLANTED["length"][0](step)

    alarms, said = Alarms(config), []
    for step in range(STEPS):
        if step == 13:
            alarms = Alarms.restored(json.loads(json.dumps(alarms.state())), config)
        said += alarms.heard(figures(step))
    assert said == heard(figures) and len(said) == 2


def test_repetition_is_the_share_of_grams_said_before():
    assert repetition("abcdefgh") == 0 and repetition("ab") == 0 and repetition([]) == 0
    assert repetition([1] * 8) == 1 - 1 / 5 and repetition(list("abcdabcd")) == 1 - 4 / 5


@pytest.mark.parametrize(("figures", "words"), [
    ({"reward": 0.5, "reward_std": 0.25, "loss": 0.0, "kl": 0.02}, ["0.5", "give or take 0.25", "near 0", "is normal"]),
    ({"reward": 0.0, "reward_std": 0.0, "frac_reward_zero_std": 1.0}, ["all the same", "nothing is learned from this"]),
    ({"objective/scores": 2.0, "loss/policy_avg": 0.4, "frac_reward_zero_std": 0.5}, ["earn 2", "50%", "says little"]),
    ({"clip_ratio/region_mean": 0.1, "objective/kl": 3.0}, ["3 nats", "10% of the tokens hit the clip"]),
    ({}, ["no figures yet"])])
def test_a_sentence_says_what_figures_mean(figures, words):
    said = sentence(figures)
    assert all(word in said for word in words) and said.endswith(".") and "\n" not in said


def test_gold_decides_when_to_stop_and_what_is_best():
    watch = GoldWatch(patience=2)
    golds = [0.1, 0.5, 0.4, 0.6, 0.55, 0.5]
    found = [watch.seen(10 * at, proxy=at, gold=gold, kl=at) for at, gold in enumerate(golds)]
    assert found[:5] == [None] * 5 and "best at step 30 (0.6)" in found[5] and watch.best.step == 30


def test_gold_that_is_no_number_is_no_better_and_small_gains_do_not_count():
    watch = GoldWatch(patience=2, min_delta=0.1)
    assert watch.seen(0, proxy=0, gold=float("nan"), kl=0) is None
    assert "no number" in watch.seen(1, proxy=0, gold=float("nan"), kl=0)
    assert watch.seen(2, proxy=0, gold=0.5, kl=0) is watch.seen(3, proxy=0, gold=0.55, kl=0) is None
    assert watch.best.step == 2 and watch.seen(4, proxy=0, gold=0.6, kl=0)
    with pytest.raises(ValueError, match="patience"):
        GoldWatch(patience=0)


@pytest.mark.parametrize("kind", ["rl", "bon"])
def test_the_peak_of_gaos_curve_is_found_again(kind):
    true, watch = Curve(kind, 1.0, 0.4), GoldWatch(patience=99, kind=kind)
    for step in range(12):
        watch.seen(step, proxy=step, gold=3 + true(step / 2), kl=(step / 2)**2)
    figures = watch.figures()
    assert figures["gold/peak_kl"] == pytest.approx(true.peak**2) and figures["gold/alpha"] == pytest.approx(1)
    assert abs(figures["gold/best_kl"] - true.peak**2) < 4


def test_a_gold_that_only_rises_has_no_peak_and_a_restored_watch_is_the_same():
    watch = GoldWatch()
    for step in range(4):
        watch.seen(step, proxy=step, gold=step**2, kl=step**2)
    assert "gold/peak_kl" not in watch.figures() and "gold/best" in watch.figures()
    again = GoldWatch.restored(json.loads(json.dumps(watch.state())))
    assert again.figures() == watch.figures() and again.seen(9, proxy=0, gold=0, kl=0) is None and again.waited == 1
    assert GoldWatch.restored(GoldWatch().state()).best is None
