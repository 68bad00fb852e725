"""What is drawn is kept as it was drawn, is a function of (weights, seed, step, place), and may be answered."""

from dataclasses import replace

import pytest
import torch
from drawing_data import policy, prompts

from bloomery.align.environment import Calculator, Reply
from bloomery.align.rollout import Actor, Asked, Forced, Group, draw_seed, forest_of, read_groups, replied
from bloomery.align.spoken import spoken
from bloomery.core.errors import InputError
from bloomery.core.files import Quarantine
from bloomery.core.records import Message
from bloomery.data.formats import problems
from bloomery.generate.engine import Engine
from bloomery.generate.sampling import AS_IS, Sampling
from bloomery.model.store import load_model
from bloomery.text.chat import load_renderer
from bloomery.train.team import Team


@pytest.fixture(scope="module")
def model():
    return load_model(policy())


@pytest.fixture(scope="module")
def renderer():
    return load_renderer(policy())


@pytest.fixture(scope="module")
def asked(renderer) -> list[Asked]:
    rows = problems(str(prompts()), Quarantine())[:5]
    return [Asked(row, renderer.prompt(row.prompt), place) for place, row in enumerate(rows)]


def actor(model, renderer, how: Sampling = AS_IS, **options) -> Actor:
    engine = Engine(model, renderer.tokenizer, slots=8, context=64)
    return Actor(engine, renderer, how, **({"samples": 4, "max_tokens": 6, "seed": 3} | options))


def said(groups: list[Group]) -> list:
    return [(one.ids, one.logps, one.finish) for group in groups for one in group.trajectories]


@pytest.mark.parametrize("how", [AS_IS, Sampling(0.7), Sampling(1.3, top_k=5), Sampling(1.0, top_p=0.6)])
def test_the_trainer_finds_what_was_drawn_as_likely_as_the_sampler_did(model, renderer, asked, how):
    groups = actor(model, renderer, how)(model, asked, step=0)
    (logp,) = read_groups(lambda batch: [spoken(model, batch, how).logp], groups, 64, Team())
    drawn = [logp for group in groups for one in group.trajectories for logp in one.logps]
    assert float((logp - torch.tensor(drawn)).abs().max()) < 1e-4
    whole = read_groups(lambda batch: [spoken(model, batch, how, whole=True).logp], groups, 8192, Team())[0]
    assert torch.allclose(whole, logp, atol=1e-5)


def test_draws_belong_to_the_step_and_the_place_and_to_nothing_else(model, renderer, asked):
    act = actor(model, renderer)
    first = said(act(model, asked, step=1))
    assert said(act(model, asked, step=2)) != first and said(act(model, asked, step=1)) == first
    alone = said(actor(model, renderer)(model, asked[2:3], step=1))
    assert alone == first[8:12]
    elsewhere = said(act(model, [replace(asked[2], place=9)], step=1))
    assert elsewhere != alone and draw_seed(1, 2) != draw_seed(12)


def test_ids_are_those_that_were_drawn_with_their_end(model, renderer, asked):
    for group in actor(model, renderer)(model, asked, step=0):
        for one in group.trajectories:
            assert one.finished == (one.ids[-1] in renderer.ends) and len(one.ids) <= 6 and all(one.own)
            assert one.text == renderer.tokenizer.decode(one.ids[:-1] if one.finished else one.ids).strip()


def test_dictated_answers_are_read_as_drawn_ones_are(model, renderer, asked):
    drawn = actor(model, renderer)(model, asked, step=0)
    ids = {group.problem.id: [one.ids for one in group.trajectories] for group in drawn}
    forced = Forced(renderer, lambda problem, step: ids[problem.id])(model, asked, step=0)
    for one, other in zip(said(drawn), said(forced), strict=True):
        assert one[0] == other[0] and one[2] == other[2] and one[1] == pytest.approx(other[1], abs=1e-4)


# --- worlds that answer back --------------------------------------------------------------------------------------

class Echo:
    """Answers the first turn with a message, pays for it, and then is silent."""

    stops = ()

    def reset(self, problem):
        self.turns = 0
        return problem.prompt

    def step(self, said):
        self.turns += 1
        return Reply(messages=(Message("user", "again"),), reward=0.5) if self.turns < 2 else None


class Suffix(Calculator):
    """Interrupts at every 1, with more text."""

    stops = ("1",)

    def step(self, said):
        return Reply(text=" ok ") if said.endswith("1") else None


def test_turns_follow_one_another_and_only_the_policys_own_tokens_are_learned(model, renderer, asked):
    act = actor(model, renderer, samples=6, max_tokens=40, world=Echo)
    groups = act(model, asked[:2], step=0)
    replies = replied(renderer, asked[0].problem.prompt, (Message("user", "again"),))
    every = [one for group in groups for one in group.trajectories]
    some = [one for one in every if one.own.count(False) == len(replies) and one.finished]
    assert some                                                 # two turns, with a reply between
    for one in some:
        theirs = [id for id, own in zip(one.ids, one.own, strict=True) if not own]
        assert theirs == replies and one.reward == 0.5 and one.ids[-1] in renderer.ends
        assert one.spoken == len(one.ids) - len(theirs)
    batch = forest_of(groups)
    logp = spoken(model, batch).logp
    drawn = [logp for group in groups for one in group.trajectories
             for logp, own in zip(one.logps, one.own, strict=True) if own]
    assert float((logp - torch.tensor(drawn)).abs().max()) < 1e-4
    assert said(act(model, asked[:2], step=0)) == said(groups)


def test_a_reply_can_go_on_inside_a_turn(model, renderer, asked):
    groups = actor(model, renderer, Sampling(2.0), samples=8, max_tokens=12, world=Suffix)(model, asked, step=0)
    ok = renderer.tokenizer.piece(" ok ", inside=True)
    interrupted = [one for group in groups for one in group.trajectories if not all(one.own)]
    assert interrupted
    for one in interrupted:
        at = one.own.index(False)
        assert one.ids[at:at + len(ok)] == ok and "1 ok" in one.text and len(one.ids) <= 12


def test_a_template_that_rewrites_what_was_said_is_refused(renderer):
    class Rewriting:
        tokenizer, template = renderer.tokenizer, renderer.template

        def prompt(self, messages):
            return renderer.prompt(messages) if len(messages) == 1 else renderer.prompt(messages)[::-1]

        def answer(self, text):
            return renderer.answer(text)

    with pytest.raises(InputError, match="cannot go on from drawn tokens"):
        replied(Rewriting(), (Message("user", "a"),), (Message("user", "b"),))
