"""An adapter's folder opens as a model does: with the base that it names, as plain weights where it is a change."""

import json
import shutil

import pytest
import torch
from adapted_models import GPT2, SHAPE, disturbed, logits

from bloomery.core.errors import ConfigError, InputError
from bloomery.generate.decode import complete
from bloomery.model.adapt import AdaptConfig, adapt, merges, trained_weights
from bloomery.model.config import ModelConfig, Rope
from bloomery.model.lora import LoraLinear
from bloomery.model.peft_files import CONFIG, save_adapter
from bloomery.model.store import is_model, load_config, load_generation, load_model, save_model
from bloomery.model.transformer import Transformer

METHODS = ("lora", "ia3", "prefix", "adapter")


def folder_of(place, method: str, shape: ModelConfig = SHAPE) -> tuple[Transformer, str]:
    """A model with a learned adapter, and its adapter's folder beside that of its base."""
    save_model(Transformer(shape, seed=0), place / "base", bos=1, eos=[2])
    model = adapt(load_model(place / "base"), AdaptConfig(method=method, prefix_tokens=4), control=(3, 7))
    save_adapter(disturbed(model, by=0.3), place / "adapter", base=str(place / "base"))
    return model, place / "adapter"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [SHAPE, GPT2])
def test_a_folder_opens_with_the_base_that_it_names(tmp_path, method, shape):
    model, folder = folder_of(tmp_path, method, shape)
    opened = load_model(folder)
    torch.testing.assert_close(logits(opened), logits(model), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(logits(opened), logits(load_model(tmp_path / "base")), atol=1e-2)
    assert is_model(folder) and load_config(folder) == opened.config == model.config
    assert load_generation(folder)["eos_token_id"] == 2
    assert opened.config.context == (28 if method == "prefix" else 32)
    assert not any(isinstance(module, LoraLinear) for module in opened.modules())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [SHAPE, GPT2])
def test_it_answers_as_it_would_one_token_at_a_time_up_to_its_last(tmp_path, method, shape):
    model = load_model(folder_of(tmp_path, method, shape)[1])
    prompts = [[5, 9, 13], [7, 1, 2, 3, 4, 5, 6]]
    room = model.config.context
    for prompt, found in zip(prompts, complete(model, prompts, ends=(), max_tokens=room), strict=True):
        text = list(prompt)
        while len(text) <= room:
            text.append(int(logits(model, torch.tensor(text))[-1].argmax()))
        assert found.ids == text[len(prompt):]


def test_learning_goes_on_from_what_is_no_change_of_weights(tmp_path):
    for method in ("prefix", "adapter"):
        model = load_model(folder_of(tmp_path / method, method)[1])
        assert not merges(model) and not trained_weights(model)
        adapt(model, AdaptConfig(method=method))
        names = trained_weights(model).keys()
        assert names and all(any(part in name for part in ("prefix", "adapter", "norm", "_rows")) for name in names)
        with pytest.raises(ConfigError, match=f"a base and its {method}") as error:
            adapt(model, AdaptConfig(method="full"))
        assert f"adapt.method={method}" in error.value.hint
    changed = load_model(folder_of(tmp_path / "lora", "lora")[1])
    assert merges(changed) and all(p.requires_grad for p in changed.parameters())


def test_a_base_may_lie_beside_its_adapter_and_must_be_somewhere(tmp_path):
    model, folder = folder_of(tmp_path, "prefix")
    said = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(said | {"base_model_name_or_path": "../base"}))
    torch.testing.assert_close(logits(load_model(folder)), logits(model), atol=1e-5, rtol=1e-5)
    shutil.rmtree(tmp_path / "base")
    with pytest.raises(InputError, match="base of an adapter is not there") as error:
        load_model(folder)
    assert error.value.why == "../base" and "bloomery merge" in error.value.hint


def test_a_prefix_is_refused_where_angles_depend_on_the_length():
    model = Transformer(SHAPE.model_copy(update={"rope": Rope(type="dynamic", factor=2.0)}), seed=0)
    with pytest.raises(InputError, match="angles that stay"):
        adapt(model, AdaptConfig(method="prefix"))
