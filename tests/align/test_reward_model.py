"""Reward models: forests score like separate sequences, what is learned holds, and transformers reads the same."""

import json
from pathlib import Path

import pytest
import torch

from bloomery import cli
from bloomery.align.rankings import Ranked, ranked_stream, ranking_batch, render_rankings
from bloomery.align.reward_model import centre_head, objective
from bloomery.core.artifacts import file_hash
from bloomery.core.errors import InputError
from bloomery.core.files import write_jsonl
from bloomery.core.records import Message, Preference, Ranking
from bloomery.losses.ranking import bradley_terry, plackett_luce
from bloomery.model.adapt import AdaptConfig, adapt
from bloomery.model.config import ModelConfig
from bloomery.model.forest import roots
from bloomery.model.scalar import ScalarModel, load_scalar
from bloomery.model.store import save_model
from bloomery.model.transformer import Transformer
from bloomery.text.chat import Renderer, load_renderer
from bloomery.text.templates import TEMPLATES
from bloomery.text.tokenizer import SMALLEST, train_tokenizer
from bloomery.train.loop import train_step
from bloomery.train.optim import OptimizerConfig
from bloomery.train.state import fresh

CONFIG = ModelConfig(vocabulary=40, context=64, depth=2, width=24, heads=4, kv_heads=2, head_width=6, hidden=32)
FEW = ("steps=30", "pairs=16", "validate_every=15", "save_every=10", "precision=fp32", "optimizer.lr=1e-2")


def some_rankings(count: int = 7) -> list[Ranked]:
    """Pairs with margins and shares, and orders of three and four answers with ties."""
    generator = torch.Generator().manual_seed(0)

    def ids(low: int, high: int) -> list[int]:
        n = int(torch.randint(low, high, (1,), generator=generator))
        return torch.randint(0, 40, (n,), generator=generator).tolist()

    ranks = [(1, 2), (1, 2, 2), (2, 1, 3, 1)]
    return [Ranked(ids(1, 12), [ids(1, 9) for _ in own], own, **({"margin": 0.5, "share": 0.8} if i % 2 else {}))
            for i, own in enumerate((ranks * count)[:count])]


def scalar(dtype: torch.dtype = torch.float64, method: str = "full") -> ScalarModel:
    model = ScalarModel(Transformer(CONFIG, seed=1, compute=dtype).to(dtype), seed=2)
    adapt(model.trunk, AdaptConfig(method=method, rank=2), seed=3)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(".b"):                             # of LoRA: at zero it would change nothing
                weight.normal_(generator=torch.Generator().manual_seed(4))
    return model


def apart(model: ScalarModel, group: Ranked) -> torch.Tensor:
    """The scores of a prompt's answers as separate sequences."""
    wholes = [group.prompt + ids for ids in group.answers]
    return model.scores(torch.tensor([i for ids in wholes for i in ids]), roots(list(map(len, wholes))))[:, 0]


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize(("dtype", "near"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize("name", ["all_pairs", "plackett_luce"])
def test_forests_have_the_values_and_gradients_of_separate_sequences(name, dtype, near, method):
    groups, model = some_rankings(), scalar(dtype, method)
    total, metrics = objective(name, centre=0.1)(model, ranking_batch(groups))
    total.backward()
    got = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    expected, right = torch.zeros((), dtype=dtype), 0.0
    for group in groups:
        r = apart(model, group)
        pairs = torch.tensor([(i, j) for i, a in enumerate(group.ranks) for j, b in enumerate(group.ranks) if a < b])
        better, worse = r[pairs[:, 0]], r[pairs[:, 1]]
        if name == "plackett_luce" and len(group.ranks) > 2:
            expected = expected + plackett_luce(r, group.ranks)
        else:
            expected = expected + bradley_terry(better, worse, margin=group.margin, share=group.share).mean()
        expected = expected + 0.1 * ((better + worse) ** 2).mean()
        right += float((better > worse).double().mean())
    expected.backward()
    assert float(total.detach()) == pytest.approx(float(expected.detach()), abs=near, rel=near)
    assert metrics["accuracy"] == pytest.approx(right, abs=1e-5)
    assert metrics["loss"] == pytest.approx(float(total.detach()))
    assert set(got) == {name for name, weight in model.named_parameters() if weight.requires_grad}
    for name, weight in model.named_parameters():
        if name in got:
            torch.testing.assert_close(got[name], weight.grad, atol=near, rtol=near)


def test_a_step_is_the_same_however_prompts_are_batched():
    gradients, losses = [], []
    for micro_tokens in (10_000, 60):
        model = scalar(torch.float32)
        batches = ranked_stream(some_rankings(), size=7, micro_tokens=micro_tokens, seed=0)(0)
        assert (len(batches) > 1) == (micro_tokens == 60)
        state = fresh(model, OptimizerConfig(lr=1.0, warmup=0.0), steps=1)
        state.optimizers = [torch.optim.SGD(model.parameters())]
        before = [p.detach().clone() for p in model.parameters()]
        losses.append(train_step(state, batches, objective(centre=0.01), None).metrics)
        gradients.append([b - p.detach() for b, p in zip(before, model.parameters(), strict=True)])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_muon_takes_the_matrices_of_the_blocks_and_nothing_else():
    model = scalar(torch.float32)
    muon, rest = fresh(model, OptimizerConfig(name="muon"), steps=1).optimizers
    taken = {p for group in muon.param_groups for p in group["params"]}
    assert taken == {p for p in model.trunk.blocks.parameters() if p.dim() == 2}
    assert model.score.weight in {p for group in rest.param_groups for p in group["params"]}


def test_the_head_is_shifted_by_a_constant():
    model, groups = scalar(torch.float32), some_rankings(40)
    answers = [(group.prompt, ids) for group in groups for ids in group.answers]
    with torch.no_grad():
        before = torch.cat([apart(model, group) for group in groups])
        found = centre_head(model, answers, answers, micro_tokens=100)
        after = torch.cat([apart(model, group) for group in groups])
    assert found["shift"] == pytest.approx(-float(before.mean()), abs=1e-5)
    assert found["reference_mean"] == pytest.approx(0, abs=1e-5) == pytest.approx(float(after.mean()), abs=1e-5)
    assert found["shift_spread"] == pytest.approx(float((before - after).std(correction=0)), abs=1e-5)
    assert found["shift_spread"] < abs(found["shift"]) < 10


# --- the stage ----------------------------------------------------------------------------------------------------

def pair_rows(count: int = 120) -> list[dict]:
    """A polite answer is preferred to a rude one, whatever is asked."""
    return [{"prompt": f"What is {n}?", "chosen": f"{'Well' if n % 3 else 'So'}, it is {n}, dear.", "kind": "ab"[n % 2],
             "rejected": f"It is {n}{'!' * (n % 4)}, fool."} for n in range(count)]


@pytest.fixture(scope="module")
def room(tmp_path_factory) -> Path:
    """A base with its tokenizer, and files of pairs and of rankings."""
    folder = tmp_path_factory.mktemp("rewards")
    tokenizer = train_tokenizer([json.dumps(row) for row in pair_rows()], vocabulary=320)
    config = ModelConfig(vocabulary=tokenizer.size, context=96, depth=2, width=32, heads=4, kv_heads=2, head_width=8,
                         hidden=48)
    save_model(Transformer(config, seed=1), folder / "base", bos=tokenizer.eos, eos=[tokenizer.eos])
    tokenizer.save(folder / "base", context=96, chat_template=TEMPLATES["chatml"].jinja())
    write_jsonl(folder / "pairs.jsonl", pair_rows())
    write_jsonl(folder / "rankings.jsonl", [
        {"prompt": f"Which is {n}?", "answers": [f"This {n}, fool.", f"Well, that {n}, dear.", f"That {n}."],
         "ranks": [3, 1, 2]} for n in range(60)])
    return folder


def made(room: Path, name: str, *options: str, code: int = 0) -> Path:
    arguments = ["reward", f"model={room / 'base'}", f"out={room / name}", *FEW, *options]
    assert cli.main(arguments) == code
    return room / name


@pytest.fixture(scope="module")
def judge(room) -> Path:
    return made(room, "judge", f"data={room / 'pairs.jsonl'}", "held_out=0.3")


def test_what_was_preferred_is_learned_and_marked(judge):
    record = json.loads((judge / "stage.json").read_text())["metrics"]
    card = json.loads((judge / "card.json").read_text())
    assert record["accuracy"] > 0.9 and card["models"]["reward"]["accuracy"] == record["accuracy"]
    held_out = [json.loads(line) for line in (judge / "heldout.jsonl").read_text().splitlines()]
    assert record["rankings"] + len(held_out) == 120 and card["pairs"] == len(held_out) > 15
    assert record["shared_prompts"] == 0 and record["reference_mean"] == pytest.approx(0, abs=1e-5)
    assert [each["name"] for each in card["models"]["reward"]["by_kind"]] == ["a", "b"]


@torch.no_grad()
def test_transformers_scores_the_same(judge):
    from transformers import AutoModelForSequenceClassification

    peer = AutoModelForSequenceClassification.from_pretrained(judge, dtype=torch.float32)
    model, renderer = load_scalar(judge), load_renderer(judge)
    assert peer.config.num_labels == 1 and peer.score.weight.shape == (1, 32)
    wholes = [renderer.prompt((Message("user", row["prompt"]),)) + renderer.answer(row["chosen"])
              for row in pair_rows(9)]
    ours = model.scores(torch.tensor([i for ids in wholes for i in ids]), roots(list(map(len, wholes))))
    longest = max(map(len, wholes))
    rows = torch.tensor([ids + [peer.config.pad_token_id] * (longest - len(ids)) for ids in wholes])
    mask = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids in wholes])
    torch.testing.assert_close(ours, peer(rows, attention_mask=mask).logits, atol=1e-5, rtol=0)
    assert float(ours.std()) > 0.01


def test_the_same_command_makes_the_same_weights(room, judge, tmp_path):
    again = made(room, "again", f"data={room / 'pairs.jsonl'}", "held_out=0.3")
    assert file_hash(again / "model.safetensors") == file_hash(judge / "model.safetensors")
    other = made(room, "other", f"data={room / 'pairs.jsonl'}", "held_out=0.3", "seed=1", "head=normal")
    assert file_hash(other / "model.safetensors") != file_hash(judge / "model.safetensors")


@pytest.mark.parametrize("options", [("ranking=plackett_luce",), ("adapt.method=lora", "adapt.rank=4"),
                                     ("pairs.jsonl",)], ids=["plackett_luce", "lora", "both"])
def test_rankings_and_adapters(room, options, request):
    given = [f"data={room / o}" if o.endswith("jsonl") else o for o in options]
    folder = made(room, request.node.callspec.id, f"rankings={room / 'rankings.jsonl'}", "held_out=0.3", *given)
    metrics = json.loads((folder / "stage.json").read_text())["metrics"]
    assert metrics["accuracy"] > 0.8 and (folder / "heldout_rankings.jsonl").is_file()
    assert (metrics["trained_share"] < 1) == ("lora" in folder.name)
    assert load_scalar(folder).labels == 1


def test_demonstrations_have_mean_zero(room, judge):
    shown = room / "shown.jsonl"
    write_jsonl(shown, [{"prompt": f"What is {n}?", "completion": f"It is {n}, fool."} for n in range(20)])
    folder = made(room, "shifted", f"data={room / 'pairs.jsonl'}", "held_out=0.3", f"reference={shown}")
    before, after = (json.loads((path / "stage.json").read_text())["metrics"] for path in (judge, folder))
    assert before["reference_deviation"] > 0 and after["shift"] > before["shift"]       # rude answers were below 0
    assert after["accuracy"] == pytest.approx(before["accuracy"], abs=0.1)


@pytest.mark.parametrize(("options", "words"), [
    ((), "nothing to learn from"), (("data=pairs.jsonl", "adapt.method=prefix"), "one of full, lora"),
    (("data=pairs.jsonl", "held_out=1.5"), "held_out"), (("data=pairs.jsonl", "parallel.shard=2"), "not split over"),
    (("data=pairs.jsonl", "sample_every=2"), "writes no samples")])
def test_what_cannot_be_is_said_before_any_work(room, options, words, capfd, tmp_path):
    given = [o.replace("=", f"={room}/") if o.startswith("data=") else o for o in options]
    assert cli.main(["reward", f"model={room / 'base'}", f"out={tmp_path / 'x'}", *FEW, *given]) in (1, 2)
    assert words in capfd.readouterr().err


def test_prompts_that_are_trained_on_are_told(room, capfd):
    folder = made(room, "leaking", f"data={room / 'pairs.jsonl'}", f"validation={room / 'pairs.jsonl'}", "steps=1")
    assert "warning: 120 of 120 held-out rows have a prompt that is trained on" in capfd.readouterr().err
    assert json.loads((folder / "stage.json").read_text())["metrics"]["shared_prompts"] == 120


# --- rows to ids --------------------------------------------------------------------------------------------------

def test_what_cannot_be_used_is_dropped_and_counted():
    renderer, ask = Renderer(train_tokenizer(["x"], vocabulary=SMALLEST)), (Message("user", "Is it?"),)
    rows = [Preference(ask, "yes", "no", margin=2.0, share=0.75), Preference(ask, "yes ", " yes"),
            Ranking(ask, ("a", "b", "b" * 200), (1, 2, 3)), Ranking(ask, ("a", "b", "c"), (2, 1, 2))]
    groups, counts = render_rankings(rows, renderer, 60, where="rows.jsonl")
    assert counts == {"rankings": 2, "dropped/too_long": 1, "dropped/equal_answers": 1}
    assert groups[0].ranks == (1, 2) and (groups[0].margin, groups[0].share) == (2.0, 0.75)
    assert groups[1].ranks == (2, 1, 2) and groups[1].answers[2] == renderer.answer("c")
    with pytest.raises(InputError, match="no ranked answers are left") as caught:
        render_rankings(rows[1:3], renderer, 60, where="rows.jsonl")
    assert "1 are longer" in caught.value.why and "1 have equal answers" in caught.value.why


def test_a_batch_knows_its_pairs():
    batch = ranking_batch([Ranked([1, 2], [[3], [4, 5]], (2, 1), 0.5, 0.75), Ranked([6], [[7], [8], [9]], (1, 2, 2))])
    assert batch.better.tolist() == [1, 2, 2] and batch.worse.tolist() == [0, 3, 4]
    assert batch.part.tolist() == [1.0, 0.5, 0.5] and batch.margin.tolist() == [0.5, 0, 0]
    assert batch.share.tolist() == [0.75, 1, 1] and batch.count == 2
    assert batch.weights.nonzero()[:, 0].tolist() == [2, 4, 6, 7, 8]            # the last token of every answer
