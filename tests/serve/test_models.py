"""What can be served: finished models, trainings that are under way, and nothing else."""

import json

import pytest
import torch
from live_server import SETTINGS, make_folder, running

from bloomery.core.errors import ConfigError, InputError
from bloomery.core.records import Message
from bloomery.generate.request import Request
from bloomery.generate.scoring import RewardModel
from bloomery.model.adapt import AdaptConfig, adapt, trained_weights
from bloomery.model.int8 import Int8Linear
from bloomery.model.scalar import ScalarModel, save_scalar
from bloomery.model.store import load_model, model_weights
from bloomery.serve.models import named, newest, open_model, open_models, reread
from bloomery.serve.settings import ServeSettings
from bloomery.text.chat import load_renderer
from bloomery.text.tokenizer import load_tokenizer
from bloomery.train import checkpoint
from bloomery.train.tuning import export_adapter

SETTING = ServeSettings(**SETTINGS)


def write_checkpoint(stage, source, step, gain=1.0):
    """What a training leaves every so often."""
    model = load_model(source)
    weights = {name: weight.detach() * gain for name, weight in model_weights(model).items()}
    told = {"step": step, "steps": 9, "model": model.config.model_dump(mode="json")}
    final = stage / "checkpoints" / f"step-{step:08d}"
    checkpoint.write(final, {"model.safetensors": weights, "optim.safetensors": {"none": torch.zeros(1)}}, told)
    return final


@pytest.fixture
def training(tmp_path, tiny_folder):
    """The folder of an SFT that is under way, in a recipe with one tokenizer."""
    load_tokenizer(tiny_folder).save(tmp_path / "tokenizer-1a2b", context=256, chat_template="")
    stage = tmp_path / "sft-3c4d"
    stage.mkdir()
    (stage / ".begun").write_text(json.dumps({"verb": "sft"}))
    write_checkpoint(stage, tiny_folder, 1)
    return stage


def test_a_training_serves_its_newest_checkpoint_and_a_newer_one_when_asked(training, tiny_folder):
    with running(open_models([f"live={training}"], SETTING), SETTING) as server:
        def answer():
            return server.post("/v1/chat/completions", {
                "model": "live", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 8,
                "temperature": 0, "logprobs": True}).json()["choices"][0]["logprobs"]["content"]

        card = server.get("/v1/models/live").json()
        assert card["kind"] == "chat" and card["checkpoint"] == "step-00000001"
        first = answer()
        assert server.post("/v1/models/live/reload", {}).json() == {
            "id": "live", "checkpoint": "step-00000001", "changed": False}
        write_checkpoint(training, tiny_folder, 2, gain=0.5)
        assert answer() == first
        assert server.post("/v1/models/live/reload", {}).json() == {
            "id": "live", "checkpoint": "step-00000002", "changed": True}
        assert answer() != first and server.get("/v1/models/live").json()["checkpoint"] == "step-00000002"


def test_a_damaged_checkpoint_is_passed_over_and_nothing_is_touched(training, tiny_folder, capsys):
    """A training may be writing here: its temporary folder stays, and so does what is damaged."""
    damaged = write_checkpoint(training, tiny_folder, 2)
    (damaged / "model.safetensors").write_bytes(b"broken")
    (training / "checkpoints" / ".tmp-half").mkdir()
    before = sorted(path.name for path in (training / "checkpoints").iterdir())
    assert newest(training).name == "step-00000001" and "passed over" in capsys.readouterr().err
    assert sorted(path.name for path in (training / "checkpoints").iterdir()) == before


@pytest.mark.parametrize("verb, kind", [("sft", "chat"), ("pretrain", "completion"), ("extend", "completion")])
def test_what_made_a_checkpoint_says_whether_it_chats(training, verb, kind):
    (training / ".begun").write_text(json.dumps({"verb": verb}))
    found = open_model("live", training, SETTING)
    assert found.kind == kind and found.engine.tokenizer.size == 300 and reread(found, SETTING) is None


def test_one_checkpoint_and_a_folder_of_them(training):
    one = training / "checkpoints" / "step-00000001"
    for folder, words in ((one, str(training.parent / "tokenizer-1a2b")), (training / "checkpoints", "")):
        assert open_model("x", folder, SETTING, words).checkpoint == one


def test_a_finished_model_says_by_its_ends_whether_it_chats(tiny_folder, base_folder):
    chat, base = (open_model("x", folder, SETTING) for folder in (tiny_folder, base_folder))
    assert (chat.kind, sorted(chat.ends), chat.checkpoint) == ("chat", [0, 2], None)
    assert (base.kind, sorted(base.ends)) == ("completion", [0])


def test_a_shape_that_has_changed_is_not_loaded(tmp_path):
    served = open_model("x", make_folder(tmp_path / "m"), SETTING)
    make_folder(tmp_path / "m", context=128)
    with pytest.raises(InputError, match="changed its shape"):
        reread(served, SETTING)


def test_eight_bit_weights_are_served(tmp_path):
    """The same folder in int8: nothing plain is left of what was quantised, and a reload quantises again."""
    folder = make_folder(tmp_path / "m", width=32)
    served = open_model("x", folder, SETTING.model_copy(update={"dtype": "int8"}))
    assert isinstance(served.engine.model.blocks[0].mlp.down, Int8Linear)
    made = served.engine.generate([Request((5, 6, 7), 4)])[0][0]
    again, _ = reread(served, SETTING.model_copy(update={"dtype": "int8"}))
    served.engine.load(again)
    assert served.engine.generate([Request((5, 6, 7), 4)])[0][0].ids == made.ids and len(made.ids) == 4


@pytest.mark.parametrize("method", ["prefix", "adapter", "lora"])
def test_an_adapters_folder_is_served_with_the_base_that_it_names(tmp_path, tiny_folder, method):
    model = adapt(load_model(tiny_folder), AdaptConfig(method=method, rank=2, prefix_tokens=4))
    with torch.no_grad():
        for weight in trained_weights(model).values():
            weight.add_(0.5)
    folder = tmp_path / "own"
    export_adapter(model, load_renderer(tiny_folder), folder, base=str(tiny_folder))
    served = open_model("own", folder if method != "lora" else folder / "adapter", SETTING)
    assert served.kind == "chat" and served.context == model.config.context
    request = Request((1, 2, 3), max_tokens=4)
    ((ours,),), ((plain,),) = (engine.generate([request]) for engine in (
        served.engine, open_model("base", tiny_folder, SETTING).engine))
    assert [token.logp for token in ours.tokens] != [token.logp for token in plain.tokens]
    assert reread(served, SETTING)[0].config == served.config


def test_a_reward_model_judges(tmp_path, tiny_folder):
    judge, folder = ScalarModel(load_model(tiny_folder), seed=3), tmp_path / "judge"
    save_scalar(judge, folder, bos=0, eos=[2, 0])
    load_tokenizer(tiny_folder).save(folder, context=256, chat_template="")
    with pytest.raises(InputError, match="scores and does not speak"):
        open_model("x", folder, SETTING)
    asked = [{"role": "user", "content": "Where is the boat?"}]
    with running(open_models([str(tiny_folder)], SETTING, rewards=[str(folder)]), SETTING) as server:
        card = server.get("/v1/models/judge").json()
        assert card["kind"] == "reward" and card["parameters"] > 10_000
        found = server.post("/v1/chat/completions", {"model": "tiny", "messages": asked, "max_tokens": 6, "seed": 2,
                                                     "best_of": 4, "reward": "judge"}).json()["best_of"]
        texts = [one["text"] for one in found["scores"]]
        scores = RewardModel(folder)([(Message("user", "Where is the boat?"),)], [texts])[0]
        assert [one["score"] for one in found["scores"]] == pytest.approx(scores, abs=1e-5)
        assert scores == sorted(scores, reverse=True) and found["reward"] == "judge" and len(set(scores)) > 1


def test_what_cannot_be_served_is_named(tmp_path, tiny_folder):
    with pytest.raises(InputError, match="no model"):
        open_model("x", tmp_path / "none", SETTING)
    with pytest.raises(InputError, match="not a model folder"):
        open_model("x", tmp_path, SETTING)
    with pytest.raises(InputError):
        open_models([str(tiny_folder)], SETTING, rewards=[str(tiny_folder)])         # it chats, and judges nothing


def test_names(tiny_folder, tmp_path):
    with pytest.raises(ConfigError, match="two models are called tiny"):
        open_models([str(tiny_folder), str(tiny_folder)], SETTING)
    both = open_models([str(tiny_folder), f"other={tiny_folder}"], SETTING)
    assert list(both.table) == ["tiny", "other"]
    assert named(f"a-b.c={tmp_path}") == ("a-b.c", tmp_path.resolve())
    assert named(f"{tmp_path}/a=b") == ("a=b", tmp_path.resolve() / "a=b")
