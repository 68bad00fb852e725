"""Beam search: exhaustive where nothing is pruned, transformers' answers where something is."""

import itertools
import random

import pytest
import torch
from torch import Tensor

from bloomery.core.errors import InputError
from bloomery.generate.beam import CHUNK, Beam, beam_search, beam_steps, likeliest, search
from bloomery.model.config import ModelConfig
from bloomery.model.forest import Forest, roots
from bloomery.model.presets import PRESETS
from bloomery.model.store import model_weights, save_model
from bloomery.model.transformer import Transformer

SIZES = {"vocabulary": 31, "context": 40, "depth": 2, "width": 32, "heads": 4, "head_width": 8, "hidden": 32}


def loud(config: ModelConfig) -> Transformer:
    """Random weights large enough that continuations differ in likelihood and beams change places."""
    generator = torch.Generator().manual_seed(3)
    model = Transformer(config, seed=None)
    with torch.no_grad():
        for name, weight in sorted(model_weights(model).items()):
            near = 1.0 if name.endswith("norm.weight") else 0.0
            weight.copy_(near + torch.randn(weight.shape, generator=generator) * (0.3 if weight.dim() == 1 else 0.3))
    return model


@pytest.fixture(scope="module")
def model() -> Transformer:
    return loud(ModelConfig(**SIZES, kv_heads=2))


def whole(beam: Beam) -> list[int]:
    return beam.ids if beam.end is None else [*beam.ids, beam.end]


def table(seed: int, size: int) -> Tensor:
    return torch.randn(size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).log_softmax(-1)


def markov(logps: Tensor):
    """A model of which only the last token counts; 0 comes first."""
    return lambda continuations: logps[[ids[-1] if ids else 0 for ids in continuations]]


@pytest.mark.parametrize("alpha", [-0.7, 0.0, 1.0, 1.8])
@pytest.mark.parametrize("penalty", ["power", "gnmt"])
@pytest.mark.parametrize("ends", [set(), {3}, {1, 3}])
def test_with_beams_enough_the_search_is_exhaustive(alpha, penalty, ends):
    steps = 4
    logps = torch.stack([table(seed, 4) for seed in range(steps)])         # by step, so that no two answers tie
    every = []
    for length in range(1, steps + 1):
        for ids in itertools.product(range(4), repeat=length):
            if not ends & set(ids[:-1]) and (ids[-1] in ends or length == steps):
                total = sum(float(logps[i, a, b]) for i, (a, b) in enumerate(itertools.pairwise((0, *ids))))
                every.append((total / (length if penalty == "power" else (5 + length) / 6) ** alpha, list(ids)))
    every.sort(reverse=True)
    *_, found = search(lambda continuations: markov(logps[len(continuations[0])])(continuations), beams=4 ** steps,
                       max_tokens=steps, ends=frozenset(ends), length_penalty=alpha, penalty=penalty,
                       early_stopping="never")
    assert [whole(beam) for beam in found] == [ids for _, ids in every]
    assert [beam.score for beam in found] == pytest.approx([score for score, _ in every])


@pytest.mark.parametrize("preset", ["llama-3.1-8b", "gpt2"])
@torch.no_grad()
def test_the_n_best_are_those_of_transformers(tmp_path, preset):
    from transformers import AutoModelForCausalLM

    config = PRESETS[preset]
    rope = config.rope.model_copy(update={"original_context": 24}) if config.rope.original_context else config.rope
    model = loud(ModelConfig(**dict(config) | SIZES | {"kv_heads": 4 if preset == "gpt2" else 2, "rope": rope}))
    save_model(model, tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32, attn_implementation="eager")
    chance, stopped = random.Random(0), 0
    for beams, alpha, early, ends in itertools.product((2, 5), (0.0, 1.0, 2.0), (False, True, "never"), (0, 1, 6)):
        prompt = [chance.randrange(31) for _ in range(chance.randint(1, 9))]
        ends = sorted(chance.sample(range(30), ends))
        got = beam_search(model, prompt, beams=beams, max_tokens=7, ends=frozenset(ends), length_penalty=alpha,
                          early_stopping=early, n_best=beams)
        expected = theirs.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)).long(), max_new_tokens=7, max_length=None,
            do_sample=False, num_beams=beams, num_return_sequences=beams, length_penalty=alpha, early_stopping=early,
            eos_token_id=ends or None, pad_token_id=30, output_scores=True, return_dict_in_generate=True)
        rows = [row[:next((at + 1 for at, i in enumerate(row) if i in ends), None)]         # the rest is padding
                for row in expected.sequences[:, len(prompt):].tolist()]
        assert [whole(beam) for beam in got] == rows, (beams, alpha, early, ends)
        assert [beam.score for beam in got] == pytest.approx(expected.sequences_scores.tolist(), abs=1e-5)
        stopped += sum(beam.finish == "stop" and len(beam.ids) < 6 for beam in got)
    assert stopped > 20


@torch.no_grad()
def test_slots_that_branch_and_die_equal_reading_everything_again(model):
    def slow(continuations: list[list[int]]) -> Tensor:
        paths = [prompt + ids for ids in continuations]
        segments = roots(list(map(len, paths)))
        hidden = model(torch.tensor(sum(paths, [])), segments.positions, Forest(segments))
        return model.logits(hidden[segments.start[1:].long() - 1]).log_softmax(-1)

    for prompt in ([4], [1, 2, 3, 4, 5, 6, 7, 8, 9]):
        *_, expected = search(slow, beams=6, max_tokens=12, ends=frozenset({5}))
        got = beam_search(model, prompt, beams=6, max_tokens=12, ends=frozenset({5}), n_best=6)
        assert list(map(whole, got)) == list(map(whole, expected))
        assert [beam.logp for beam in got] == pytest.approx([beam.logp for beam in expected], abs=1e-4)


def test_one_beam_is_greedy(model):
    ids, *_ = [beam.ids for beam in beam_search(model, [3, 4], beams=1, max_tokens=8)]
    again = [3, 4]
    with torch.no_grad():
        for _ in range(8):
            hidden = model(torch.tensor(again), torch.arange(len(again)), Forest(roots([len(again)])))
            again.append(int(model.logits(hidden[-1]).argmax()))
    assert ids == again[2:]


def test_ties_go_to_the_lowest_id():
    assert likeliest(torch.tensor([0.0, 2.0, 1.0, 2.0, 1.0, 1.0]), 4) == [1, 3, 2, 4]
    assert likeliest(torch.tensor([-torch.inf, 0.0, -torch.inf]), 3) == [1]
    flat = torch.zeros(4, 4, dtype=torch.float64).log_softmax(-1)
    *_, found = search(markov(flat), beams=3, max_tokens=2)
    assert [beam.ids for beam in found] == [[0, 0], [0, 1], [0, 2]]
    with pytest.raises(FloatingPointError):
        likeliest(torch.tensor([0.0, torch.nan]), 1)


def test_when_it_stops():
    """Token 1 ends and is likelier than 0, so that the one beam has its answer after a step.

    "never" goes on while 0s could still win at full length: t log 0.4 / 9 > log 0.6 until t = 6.
    """
    logps = torch.tensor([[0.4, 0.6], [0.5, 0.5]], dtype=torch.float64).log()

    def steps(early) -> int:
        return len(list(search(markov(logps), beams=1, max_tokens=9, ends=frozenset({1}), early_stopping=early)))

    assert (steps(True), steps(False), steps("never")) == (1, 1, 6)


def test_it_can_be_stepped_and_two_searches_can_take_turns(model):
    asked = dict(beams=3, max_tokens=5, ends=frozenset({5}))
    one, two = beam_steps(model, [1, 2, 3], **asked), beam_steps(model, [9, 8], **asked)
    items = [item for pair in itertools.zip_longest(one, two) for item in pair]
    assert items[-2:] == [beam_search(model, prompt, **asked, n_best=3) for prompt in ([1, 2, 3], [9, 8])]
    assert items[0] == [] and len(items) == 12              # the prompt, then five steps


def test_a_long_prompt_is_read_in_chunks():
    model = loud(ModelConfig(**SIZES | {"context": 2 * CHUNK + 20}, kv_heads=2))
    prompt = [i % 31 for i in range(2 * CHUNK + 9)]
    items = list(beam_steps(model, prompt, beams=2, max_tokens=2))
    assert [len(item) for item in items] == [0, 0, 0, 0, 2]
    with torch.no_grad():
        hidden = model(torch.tensor(prompt), torch.arange(len(prompt)), Forest(roots([len(prompt)])))
        best = model.logits(hidden[-1:]).log_softmax(-1).max()
    *_, one = beam_steps(model, prompt, beams=1, max_tokens=1)
    assert one[0].logp == pytest.approx(float(best), abs=1e-4)


def test_a_full_context_ends_with_length(model):
    """The last token is predicted from a full context, as in decoding without beams."""
    found = beam_search(model, list(range(30)), beams=3, max_tokens=99, n_best=3)
    assert [(len(beam.ids), beam.finish, beam.end) for beam in found] == [(11, "length", None)] * 3


@pytest.mark.parametrize("prompt", [[], [1] * 40])
def test_prompts_that_cannot_be_continued_are_refused(model, prompt):
    with pytest.raises(InputError, match="cannot be continued"):
        beam_search(model, prompt, beams=2, max_tokens=3)


@pytest.mark.parametrize("change", [{"beams": 0}, {"max_tokens": 0}, {"n_best": 3}, {"n_best": 0}])
def test_sizes_that_make_no_sense_are_refused(model, change):
    with pytest.raises(ValueError, match="must be"):
        beam_search(model, [1], **{"beams": 2, "max_tokens": 3} | change)
