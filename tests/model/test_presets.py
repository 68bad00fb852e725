"""Networks by name and by one dial."""

import pytest
import torch

from bloomery.core.config import options
from bloomery.core.errors import ConfigError
from bloomery.model.config import Rope
from bloomery.model.presets import PRESETS, SIZES, ModelOptions, shape, sized
from bloomery.model.transformer import Transformer

PARAMETERS = {          # as transformers counts the published checkpoints
    "gpt2": 124_439_808, "gpt2-medium": 354_823_168, "gpt2-large": 774_030_080, "gpt2-xl": 1_557_611_200,
    "llama-2-7b": 6_738_415_616, "llama-2-13b": 13_015_864_320, "llama-3-8b": 8_030_261_248,
    "llama-3.1-8b": 8_030_261_248, "llama-3.2-1b": 1_235_814_400, "llama-3.2-3b": 3_212_749_824,
    "mistral-7b": 7_241_732_096, "qwen2-0.5b": 494_032_768, "qwen2-1.5b": 1_543_714_304, "qwen2-7b": 7_615_616_512,
    "qwen2.5-0.5b": 494_032_768, "qwen2.5-1.5b": 1_543_714_304, "qwen3-0.6b": 596_049_920,
    "smollm2-135m": 134_515_008, "smollm2-360m": 361_821_120, "smollm2-1.7b": 1_711_376_384,
    "gemma-2-2b": 2_614_341_888}


@pytest.mark.parametrize("preset", PARAMETERS)
def test_published_sizes(preset):
    config = PRESETS[preset]
    assert config.parameters() == PARAMETERS[preset]
    with torch.device("meta"):
        model = Transformer(config, seed=None)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[preset]


@pytest.mark.parametrize("depth", [1, 2, 3, 6, 12, 24])
def test_one_dial_gives_a_consistent_model(depth):
    config = sized(depth, vocabulary=100, context=64)
    assert config.width == config.heads * config.head_width and config.heads % config.kv_heads == 0
    assert config.width % 64 == config.hidden % 64 == 0 and 8 / 3 <= config.hidden / config.width < 8 / 3 + 1


def test_overrides_win_over_the_dial():
    config = sized(2, vocabulary=100, context=64, width=48, heads=3, kv_heads=None, tied=False)
    assert (config.width, config.heads, config.kv_heads, config.head_width, config.tied) == (48, 3, 3, 16, False)


def test_the_dial_without_anything_else_is_the_quickstart_s_network():
    config = shape(ModelOptions(), 4096)
    assert config == sized(6, vocabulary=4096, context=512)
    assert (config.width, config.heads, config.kv_heads, config.hidden, config.tied) == (320, 5, 5, 896, True)


def test_a_preset_sets_what_is_not_given():
    config = shape(ModelOptions(preset="llama-3.2-1b", depth=2, rope=Rope(fraction=0.5), tied=False), 1000)
    assert config == PRESETS["llama-3.2-1b"].model_copy(
        update={"vocabulary": 1000, "depth": 2, "rope": Rope(fraction=0.5), "tied": False})
    assert ModelOptions(preset="gpt2").context == 1024 and ModelOptions(preset="gpt2", context=64).context == 64
    assert shape(ModelOptions(preset="gpt2", context=64), 9).context == 64


@pytest.mark.parametrize("name", SIZES)
def test_our_own_sizes_follow_the_dial_and_what_is_given(name):
    assert shape(ModelOptions(preset=name), 32_768) == PRESETS[name]
    narrow = shape(ModelOptions(preset=name, width=128), 100)
    assert (narrow.depth, narrow.width, narrow.heads, narrow.hidden) == (SIZES[name], 128, 2, 384)


def test_options_survive_being_written_down():
    for given in ({}, {"preset": "gemma-2-2b"}, {"preset": "nano", "window": 4, "window_layers": (0,)}):
        first = ModelOptions(**given)
        assert shape(ModelOptions(**first.model_dump(mode="json")), 50) == shape(first, 50)


def test_every_switch_of_a_network_is_an_option():
    names = [option.name for option in options(ModelOptions)]
    assert names[:3] == ["preset", "depth", "context"] and {"qk_norm", "residual_init", "rope.factor"} <= set(names)


def test_shapes_that_do_not_fit_together_are_a_configuration_error():
    with pytest.raises(ConfigError, match="not consistent") as caught:
        shape(ModelOptions(heads=3, kv_heads=2), 100)
    assert "multiple of kv_heads" in caught.value.why
