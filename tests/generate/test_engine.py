"""One request, the same bits: alone or in company, in any slot, cold or cached; and training would score it alike."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import one_hot

from bloomery.core.errors import InputError
from bloomery.data.batch import forest, sequence
from bloomery.data.likelihood import token_logps
from bloomery.generate import engine as engine_file
from bloomery.generate.engine import Engine
from bloomery.generate.request import Completion, Request, Ticket
from bloomery.generate.sampling import GREEDY, Sampling
from bloomery.generate.sampling import choose as really_choose
from bloomery.generate.stopping import cut_at_stop
from bloomery.model.config import ModelConfig
from bloomery.model.forest import Forest, roots
from bloomery.model.linear import Linear
from bloomery.model.packed import packs
from bloomery.model.transformer import Transformer
from bloomery.text.tokenizer import SMALLEST, train_tokenizer

PLAIN = ModelConfig(vocabulary=60, context=48, depth=2, width=32, heads=4, kv_heads=2, head_width=8, hidden=48)
CONFIGS = {
    "grouped": PLAIN,
    "windows": PLAIN.model_copy(update={"window": 5, "window_layers": (0,)}),
    "capped": PLAIN.model_copy(update={"softcap": 2.0, "head_softcap": 5.0, "norm_order": "sandwich"}),
    "learned": PLAIN.model_copy(update={"positions": "learned", "norm": "layer", "biases": "all", "activation": "gelu",
                                        "kv_heads": 4, "context": 45}),
}
HOW = Sampling(temperature=0.9, top_p=0.95, repetition_penalty=1.1)
LONG = tuple(3 * i % 59 for i in range(21))


def made(config: ModelConfig = PLAIN, *, seed: int = 1, compute: torch.dtype = torch.float32) -> Transformer:
    """Weights so large that tokens are far from equally likely and attention counts."""
    model = Transformer(config, seed=seed, compute=compute)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(4 if weight.dim() > 1 else 1)
    return model


def engine(model: Transformer | None = None, **options) -> Engine:
    return Engine(model or made(), **{"slots": 4, "chunk": 8} | options)


def bits(one: Completion) -> list[tuple]:
    return [(token.id, token.logp, token.raw, token.top) for token in one.tokens]


def run(one: Engine, *tickets: Ticket) -> None:
    while not all(ticket.finished for ticket in tickets):
        assert one.busy
        one.step()


# --- the same bits ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", CONFIGS)
def test_a_request_gets_the_same_bits_in_any_company_slot_and_state_of_the_cache(name, compute):
    model = made(CONFIGS[name], compute=compute)
    asked = Request(LONG, 12, how=HOW, seed=5, alternatives=2)
    alone = bits(engine(model, slots=32).generate([asked])[0][0])
    assert len(alone) == 12 and len({token for token, *_ in alone}) > 3
    one = engine(model, slots=32)
    others = [Request(tuple((7 * i + j) % 60 for j in range(1 + 5 * i % 30)), 3 + i % 9, how=(HOW, GREEDY)[i % 2],
                      seed=i) for i in range(31)]
    for place in (0, 13, 31):                                       # cold at first, then from what is cached
        tickets = [one.submit(other) for other in others[:place]]
        one.step()
        ticket = one.submit(asked)
        tickets += [ticket, *(one.submit(other) for other in others[place:])]
        run(one, *tickets)
        assert bits(ticket.completions[0]) == alone
    assert ticket.cached_tokens == 16 and one.free_slots == 32


@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16], ids=str)
def test_samples_are_the_same_however_many_and_wherever_they_begin(compute):
    """Seven samples in three slots begin one after the other from copies; n = 1 is the first of them."""
    model = made(compute=compute)
    tight, wide = engine(model, slots=7), engine(model, slots=7)
    blocker = tight.submit(Request((1, 2), 30, n=4))
    tight.step()
    ticket = tight.submit(Request(LONG, 9, how=HOW, n=7, seed=2))
    run(tight, ticket, blocker)
    together = [bits(one) for one in wide.generate([Request(LONG, 9, how=HOW, n=7, seed=2)])[0]]
    assert [bits(one) for one in ticket.completions] == together
    assert [bits(engine(model, slots=7).generate([Request(LONG, 9, how=HOW, n=n, seed=2)])[0][n - 1])
            for n in (1, 3)] == [together[0], together[2]]
    assert len({str(one) for one in together}) == 7
    assert tight.stats["prompt_tokens"] == 2 + len(LONG) and ticket.cached_tokens == 0


@pytest.mark.parametrize("name", CONFIGS)
def test_log_probabilities_are_those_of_training(name):
    model = made(CONFIGS[name])
    ticket = engine(model).submit(Request((1, 2), 1))
    one = engine(model)
    ticket = one.submit(Request(LONG, 14, how=HOW, seed=3, prompt_logps=True, alternatives=3))
    beside = one.submit(Request((9, 8, 7), 20, how=HOW))
    run(one, ticket, beside)
    whole = [*LONG, *ticket.completions[0].ids]
    with torch.no_grad():
        expected, _ = token_logps(model, forest([sequence(whole, [True] * len(whole))]))
        logits = model.logits(model(torch.tensor(whole), torch.arange(len(whole)), Forest(roots([len(whole)]))))
    tokens = [*ticket.prompt_tokens, *ticket.completions[0].tokens]
    assert [token.id for token in tokens] == whole[1:]
    torch.testing.assert_close(torch.tensor([token.raw for token in tokens]), expected, atol=1e-5, rtol=0)
    best = logits.log_softmax(-1).topk(3)
    assert [[id for id, _ in token.top] for token in tokens] == best.indices[:-1].tolist()
    torch.testing.assert_close(torch.tensor([[p for _, p in token.top] for token in tokens]), best.values[:-1],
                               atol=1e-5, rtol=0)


def test_a_scored_prompt_is_the_same_cold_and_cached_and_changes_no_answer():
    one = engine()
    plain = one.generate([Request(LONG, 5, how=HOW)])[0][0]
    tickets = [one.submit(Request(LONG, 5, how=HOW, prompt_logps=True, n=2)) for _ in range(2)]
    run(one, *tickets)
    assert tickets[0].prompt_tokens == tickets[1].prompt_tokens and len(tickets[0].prompt_tokens) == len(LONG) - 1
    assert all(ticket.completions[0] == plain and ticket.cached_tokens == 0 for ticket in tickets)


def test_chunks_of_another_size_say_the_same_up_to_rounding():
    greedy = Request(LONG, 10)
    found = [engine(chunk=chunk).generate([greedy])[0][0] for chunk in (3, 8, 64)]
    assert found[0].ids == found[1].ids == found[2].ids
    for other in found[1:]:
        torch.testing.assert_close(torch.tensor([t.raw for t in other.tokens]),
                                   torch.tensor([t.raw for t in found[0].tokens]), atol=1e-5, rtol=0)


# --- how it ends --------------------------------------------------------------------------------------------------

def test_ends_lengths_and_a_full_context():
    one, how = engine(), Sampling(temperature=0, no_repeat_ngram=1)
    free = one.generate([Request(LONG, 20, how=how)])[0][0]
    at = next(i for i in range(2, 20) if free.ids[i] not in free.ids[:i])
    ends = frozenset({free.ids[at]})
    ended, kept, full, nothing = (found[0] for found in one.generate([
        Request(LONG, 20, how=how, ends=ends), Request(LONG, 20, how=how, ends=ends, min_tokens=at + 1),
        Request(LONG, 100),
        Request(LONG, 0, prompt_logps=True)]))
    assert (free.finish, len(free.ids)) == ("length", 20)
    assert (ended.finish, ended.ids, len(ended.tokens)) == ("stop", free.ids[:at], at + 1)
    assert kept.ids[:at] == free.ids[:at] and kept.tokens[at].id not in ends
    assert (full.finish, len(full.tokens)) == ("length", PLAIN.context + 1 - len(LONG))
    assert (nothing.finish, nothing.tokens) == ("length", [])


def test_a_prompt_as_long_as_the_context_can_be_scored():
    one = engine(context=24, slots=2)
    tickets = [one.submit(Request(tuple(range(24)), 0, prompt_logps=True, n=n)) for n in (1, 2)]
    tickets.append(one.submit(Request(tuple(range(20)), 9)))
    run(one, *tickets)
    assert [len(ticket.prompt_tokens or ()) for ticket in tickets] == [23, 23, 0]
    assert len(tickets[2].completions[0].ids) == 5 and one.free_slots == 2


def test_learned_positions_end_inside_the_last_chunk():
    model, prompt = made(CONFIGS["learned"]), tuple(range(44))
    found = engine(model).generate([Request(prompt, 9)])[0][0]
    with torch.no_grad():
        expected = model.logits(model(torch.tensor(prompt), torch.arange(44), Forest(roots([44]))))[-1].log_softmax(-1)
    assert len(found.ids) == 2 and found.tokens[0].raw == pytest.approx(float(expected.max()), abs=1e-5)


@pytest.fixture(scope="module")
def speaker() -> Engine:
    """One token a byte, so that nonsense is full of unfinished characters."""
    config = PLAIN.model_copy(update={"vocabulary": SMALLEST, "context": 80})
    return Engine(made(config), train_tokenizer(["x"], vocabulary=SMALLEST), slots=3, chunk=8)


def told(one: Engine, request: Request) -> tuple[Ticket, list[str]]:
    ticket, pieces = one.submit(request), []
    while not ticket.finished:
        pieces += [event.text for event in one.step() if event.ticket is ticket]
    return ticket, pieces


def test_pieces_are_the_text_and_the_text_is_the_tokens(speaker):
    ticket, pieces = told(speaker, Request((5, 6), 60, how=Sampling(), seed=4))
    one = ticket.completions[0]
    assert "".join(pieces) == one.text == speaker.tokenizer.decode(one.ids) and len(one.ids) == 60


class Recital:
    """Says given ids one after the other, whatever it is asked."""

    compute, head = torch.float32, torch.nn.Linear(1, 1)

    def __init__(self, config: ModelConfig, prompt: int, ids: list[int]):
        self.config, self.ids, self.first = config, torch.tensor(ids), prompt - 1

    def __call__(self, ids, positions, memory):
        return positions

    def logits(self, hidden):
        return one_hot(self.ids[(hidden - self.first).clamp(0, len(self.ids) - 1)], self.config.vocabulary).float()


@pytest.mark.parametrize("text", ["Grüße, 🙂!", "你好\n世界", "e\u0301 👩‍👩‍👧 \ufffd end", "plain", "🙂"])
@pytest.mark.parametrize("stop", ["never", "end", "界", "!"])
def test_characters_come_whole(speaker, text, stop):
    """Bytes of a character come one token at a time; no piece holds half of one."""
    tokenizer, prompt = speaker.tokenizer, (5, 6, 7)
    said = [*tokenizer.encode(text), tokenizer.turn_end]
    one = Engine(Recital(speaker.model.config, len(prompt), said), tokenizer, slots=2, chunk=8)
    ticket, pieces = told(one, Request(prompt, 70, ends=frozenset({tokenizer.turn_end}), stops=(stop,)))
    assert "".join(pieces) == text.partition(stop)[0] and ticket.completions[0].finish == "stop"
    assert all("\ufffd" not in piece for piece in pieces) or "\ufffd" in text


def test_an_answer_cut_in_the_middle_of_a_character_ends_visibly(speaker):
    said = speaker.tokenizer.encode("ok 🙂")
    one = Engine(Recital(speaker.model.config, 2, said), speaker.tokenizer, slots=1)
    ticket, pieces = told(one, Request((5, 6), 5))
    assert "".join(pieces) == "ok \ufffd" == ticket.completions[0].text


@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_stop_string_cuts_the_text_wherever_tokens_end(speaker, size):
    whole = told(speaker, Request((5, 6), 60, how=Sampling(), seed=4))[0].completions[0].text
    stop = whole[20:20 + size]
    ticket, pieces = told(speaker, Request((5, 6), 60, how=Sampling(), seed=4, stops=(stop,)))
    one = ticket.completions[0]
    assert (one.finish, one.matched) == ("stop", stop)
    assert "".join(pieces) == one.text == cut_at_stop(whole, [stop])[0]
    assert one.ids == [token.id for token in one.tokens] and speaker.free_slots == 3


# --- coming and going ---------------------------------------------------------------------------------------------

def test_who_is_cancelled_leaves_at_once_and_nobody_notices():
    one = engine(slots=3)
    stays = Request(LONG, 10, how=HOW, seed=1)
    alone = one.generate([stays])[0][0]
    going, left = one.submit(Request((1, 2, 3), 40, n=2)), one.submit(stays)
    waits = one.submit(Request((4, 5), 2, n=3))
    for _ in range(5):
        one.step()
    assert one.free_slots == 0
    one.cancel(going)
    assert one.free_slots == 2 and [c.finish for c in going.completions] == ["cancelled"] * 2
    assert [len(c.tokens) > 0 for c in going.completions] == [True, True]
    run(one, left, waits)
    assert left.completions[0] == alone and one.free_slots == 3 and not one.busy
    one.cancel(left)
    assert left.completions[0].finish == "length"


def test_a_paused_request_rests_and_says_the_same_afterwards():
    one = engine(slots=2)
    asked = Request(LONG, 10, how=HOW, seed=1)
    alone = one.generate([asked])[0][0]
    ticket, beside = one.submit(asked), one.submit(Request((3, 4), 30, how=HOW))
    for _ in range(6):
        one.step()
    ticket.paused, said = True, len(ticket.completions[0].tokens)
    run(one, beside)
    assert not one.busy and one.step() == [] and 0 < said == len(ticket.completions[0].tokens)
    ticket.paused = False
    run(one, ticket)
    assert ticket.completions[0] == alone


def test_slots_are_kept_full_and_a_finished_row_is_replaced():
    """12 requests of 1 to 12 tokens in 4 slots: 78 tokens take 20 full steps and a ragged end."""
    one = engine()
    done = one.generate(Request((i,), 1 + i) for i in range(12))
    assert [len(completions[0].tokens) for completions in done] == list(range(1, 13))
    assert one.stats["generated_tokens"] == 78 and one.stats["steps"] <= 26


class Counting(Transformer):
    """Remembers how many rows each forward pass had."""

    def forward(self, ids, positions, memory):
        self.rows = len(ids)
        return super().forward(ids, positions, memory)


@pytest.mark.parametrize(("slots", "alive", "rows"), [(32, 1, 8), (32, 8, 8), (32, 9, 16), (5, 2, 8), (1, 1, 1)])
def test_a_step_takes_as_many_rows_as_are_alive_rounded_up(slots, alive, rows):
    model = Counting(PLAIN, seed=1)
    engine(model, slots=slots).generate(Request((i,), 3) for i in range(alive))
    assert model.rows == rows


def test_rows_that_lie_far_apart_are_copied_and_say_the_same():
    asked = Request(LONG, 12, how=HOW, seed=1)
    alone = engine(slots=32).generate([asked])[0][0]
    one = engine(slots=32)
    ends = [one.submit(asked if i in (0, 31) else Request((i,), 40)) for i in range(32)]
    while not all(ticket.completions[0].tokens for ticket in ends):
        one.step()
    for ticket in ends[1:-1]:
        one.cancel(ticket)
    one.step()
    assert one.cache._slots == [0, 31]
    run(one, ends[0], ends[31])
    assert ends[0].completions[0] == alone == ends[31].completions[0]


@pytest.mark.parametrize(("request_", "words"), [
    (Request((), 3), "it has 0 tokens, the model reads 1 to 47"),
    (Request(tuple([1] * 48), 3), "it has 48 tokens"),
    (Request((1, 60), 3), "token id 60 is not one of the 60"),
    (Request((-1, 30), 3), "token id -1 is not"),
    (Request((1,), 3, n=5), "5 completions are asked for, and there are 4 slots"),
    (Request((1,), 3, stops=("a",)), "without a tokenizer"),
    (Request((1,), 3, how=Sampling(logit_bias=((60, 1.0),))), "60"),
])
def test_what_can_never_be_answered_is_refused(request_, words):
    one = engine()
    with pytest.raises(InputError) as caught:
        one.submit(request_)
    assert words in caught.value.why and not one.busy


@pytest.mark.parametrize("options", [{"max_tokens": -1}, {"n": 0}, {"min_tokens": -1}, {"alternatives": -1}])
def test_requests_out_of_range_are_named(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} must be >= "):
        Request(**{"prompt": (1,), "max_tokens": 3} | options)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.one_of(
    st.tuples(st.just("submit"), st.integers(1, 30), st.integers(1, 2), st.integers(0, 6)),
    st.tuples(st.just("cancel"), st.integers(0, 9), st.just(0), st.just(0)),
    st.tuples(st.just("step"), st.integers(1, 5), st.just(0), st.just(0))), max_size=14))
def test_nothing_leaks_and_those_who_stay_are_answered_as_if_alone(actions):
    one, tickets = engine(slots=2, chunk=4), []
    for name, value, n, tokens in actions:
        if name == "submit":
            tickets.append(one.submit(Request(LONG[:1] * value, tokens, how=HOW, n=n, seed=value)))
        elif name == "step":
            for _ in range(value):
                one.step()
        elif tickets:
            one.cancel(tickets[value % len(tickets)])
    run(one, *tickets)
    assert one.free_slots == 2 and not one.waiting and not one.busy and not one._first
    for ticket in tickets[:2]:
        if all(c.finish == "length" for c in ticket.completions):
            assert engine(slots=2, chunk=4).generate([ticket.request])[0] == ticket.completions


# --- when something breaks ----------------------------------------------------------------------------------------

def test_an_error_ends_only_the_request_it_belongs_to(monkeypatch):
    def choose(logits, rows):
        if any(row.seed == 13 and len(row.generated) == 3 for row in rows):
            raise RuntimeError("thirteen")
        return really_choose(logits, rows)

    monkeypatch.setattr(engine_file, "choose", choose)
    one = engine()
    well = Request(LONG, 9, how=HOW, seed=1)
    alone = one.generate([well])[0][0]
    bad, good = one.submit(Request((1, 2), 9, seed=13, n=2)), one.submit(well)
    run(one, bad, good)
    assert [c.finish for c in bad.completions] == ["error", "error"] and bad.error == "RuntimeError: thirteen"
    assert good.completions[0] == alone and good.error is None and one.free_slots == 4


def test_an_error_while_a_prompt_is_read_does_too():
    class Fragile(Transformer):
        def forward(self, ids, positions, memory):
            if 59 in ids.tolist():
                raise RuntimeError("fifty-nine")
            return super().forward(ids, positions, memory)

    one = engine(Fragile(PLAIN, seed=1))
    bad, good = one.submit(Request((*LONG, 59), 3, n=2)), one.submit(Request((1, 2, 3), 3))
    run(one, bad, good)
    assert bad.error == "RuntimeError: fifty-nine" and good.completions[0].finish == "length"
    assert one.free_slots == 4 and not one.busy


def test_logits_that_are_no_numbers_are_an_error_of_one_request_and_stay_in_no_slot():
    """A token whose embedding is broken is in one prompt; the next one in that slot is answered as ever."""
    model, well = made(PLAIN.model_copy(update={"tied": False})), Request((1, 2), 4)
    alone = engine(model, slots=1).generate([well])[0][0]
    with torch.no_grad():
        model.embedding.weight[59] = torch.nan
    one = engine(model, slots=1)
    bad, good = one.submit(Request((*LONG, 59), 4)), one.submit(well)
    run(one, bad, good)
    assert bad.completions[0].finish == "error" and "not finite" in bad.error
    assert good.completions[0] == alone


# --- other weights ------------------------------------------------------------------------------------------------

def test_other_weights_are_served_once_those_who_have_begun_are_done():
    old, new = made(seed=1), made(seed=2)
    asked = Request(LONG, 6, how=HOW, seed=1)
    before, after = (engine(model, slots=2).generate([asked])[0][0] for model in (old, new))
    one = engine(old, slots=2)
    begun = one.submit(asked)
    one.step()
    one.load(new)
    later = one.submit(asked)
    assert one.model is old
    run(one, begun, later)
    assert (begun.completions[0], later.completions[0]) == (before, after) != (after, before)
    assert one.model is new and later.cached_tokens == 0 and begun.cached_tokens == 0


@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16], ids=str)
def test_the_same_model_is_loaded_again_after_a_training_step(compute):
    model = made(compute=compute)
    one, asked = engine(model), Request(LONG, 6)
    before = one.generate([asked])[0][0]
    layers = [block.mlp.down for block in one.decoder.blocks]
    with torch.no_grad():
        model.blocks[0].mlp.down.weight.mul_(-1)
    one.load(model)
    after = one.generate([asked])[0][0]
    assert after != before and after == engine(model).generate([asked])[0][0]
    kept = [block.mlp.down is layer for block, layer in zip(one.decoder.blocks, layers, strict=True)]
    assert kept == ([True, True] if one.decoder is model else [False, True])


def test_weights_of_another_shape_are_refused():
    with pytest.raises(InputError, match="do not fit"):
        engine().load(made(CONFIGS["learned"]))


# --- scores and embeddings ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", CONFIGS)
def test_continuations_are_scored_as_separate_sequences_would_be(name):
    model = made(CONFIGS[name])
    contexts, groups = [[1, 2, 3], [2], [9] * 12, [4]], [[[5, 6], [7]], [], [[8, 8, 8]], [[1, 2]]]
    found = engine(model).score(contexts, groups)
    assert [len(scores) for scores in found] == [2, 0, 1, 1]
    for context, group, scores in zip(contexts, groups, found, strict=True):
        for ids, score in zip(group, scores, strict=True):
            trained = [False] * len(context) + [True] * len(ids)
            with torch.no_grad():
                expected = token_logps(model, forest([sequence([*context, *ids], trained)]))[0].sum()
            assert score == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize(("contexts", "groups"), [([[]], [[[1]]]), ([[1]], [[[]]]), ([[1] * 40], [[[2] * 10]])])
def test_what_cannot_be_scored_is_named(contexts, groups):
    with pytest.raises(InputError) as caught:
        engine().score([[1], *contexts], [[[2]], *groups])
    assert caught.value.where == "context 1"


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_embeddings_are_pooled_hidden_states_of_length_one(pooling):
    model, inputs = made(), [[1, 2, 3], [4] * 9, [5], [1, 2, 3]]
    found = engine(model).embed(inputs, pooling)
    assert found.dtype == torch.float32 and torch.equal(found[0], found[3])
    for ids, vector in zip(inputs, found, strict=True):
        with torch.no_grad():
            hidden = model(torch.tensor(ids), torch.arange(len(ids)), Forest(roots([len(ids)])))
        expected = hidden.mean(0) if pooling == "mean" else hidden[-1]
        torch.testing.assert_close(vector, expected / expected.norm(), atol=1e-5, rtol=0)


def test_an_input_that_cannot_be_embedded_is_named():
    with pytest.raises(InputError) as caught:
        engine().embed([[1], []])
    assert caught.value.where == "input 1"


def test_an_engine_that_owns_its_model_keeps_no_plain_weights():
    """Decoding, scores and embeddings are those of an engine beside a model that is kept."""
    models = [Transformer(PLAIN, seed=3, compute=torch.bfloat16).to(torch.bfloat16).eval() for _ in range(2)]
    if not packs(models[0]):
        pytest.skip("this build of torch has no packed products")
    kept, owned = Engine(models[0], slots=2), Engine(models[1], slots=2, own=True)
    request = Request((3, 4, 5), 6)
    assert owned.generate([request])[0][0].tokens == kept.generate([request])[0][0].tokens
    mine, theirs = (engine.score([[3, 4]], [[[5, 6], [7]]])[0] for engine in (owned, kept))
    assert mine == pytest.approx(theirs, abs=0.05)
    torch.testing.assert_close(owned.embed([[3, 4, 5]]), kept.embed([[3, 4, 5]]), atol=0.02, rtol=0)
    plain = [name for name, module in owned.model.named_modules() if type(module) is Linear]
    assert set(plain) <= {"embedding", "places", "head.plain"}
