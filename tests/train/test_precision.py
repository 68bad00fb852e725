"""The compute dtype is what was asked for, or what is fast at the products of the model."""

import pytest
import torch

from bloomery.model.config import ModelConfig
from bloomery.train import precision
from bloomery.train.precision import choose, products

CONFIG = ModelConfig(vocabulary=50, context=8, depth=3, width=16, heads=4, kv_heads=2, head_width=8, hidden=24)
ON_CPU = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is not measured")


@pytest.fixture(autouse=True)
def nothing_asked(monkeypatch):
    monkeypatch.delenv("BLOOMERY_PRECISION", raising=False)


def test_the_products_of_a_model_are_those_of_its_matrices():
    shapes = products(CONFIG, 2048)
    matrices = sum(inputs * outputs for _, inputs, outputs in shapes[:4])
    norms = 2 * CONFIG.width
    assert CONFIG.depth * (matrices + norms) + CONFIG.width + 50 * 16 == CONFIG.parameters()
    assert {rows for rows, _, _ in shapes[:4]} == {2048} and shapes[4] == (1024, 16, 50)


@ON_CPU
@pytest.mark.parametrize(("gain", "chosen"), [(2.0, torch.bfloat16), (1.2, torch.float32), (0.5, torch.float32)])
def test_bf16_must_be_worth_it_at_the_model_s_own_products(monkeypatch, gain, chosen):
    asked = []

    def seconds(dtype, shape, seconds, device):
        asked.append(shape)
        return 1e-3 / gain if dtype == torch.bfloat16 else 1e-3

    monkeypatch.setattr(precision, "fastest_product", seconds)
    dtype, why = choose("auto", products(CONFIG, 64))
    assert dtype == chosen and "the model's products" in why
    assert asked == 2 * products(CONFIG, 64)


@ON_CPU
def test_without_shapes_a_square_product_is_timed(monkeypatch):
    monkeypatch.setattr(precision, "fastest_product", lambda *_: 1e-3)
    assert choose("auto") == (torch.float32, "fp32: matrix products reach 268 GFLOP/s in bf16, 268 in fp32")


def test_what_is_asked_for_is_taken(monkeypatch):
    monkeypatch.setattr(precision, "fastest_product", None)
    assert choose("bf16")[0] == torch.bfloat16 and choose("fp32")[0] == torch.float32
    monkeypatch.setenv("BLOOMERY_PRECISION", "bf16")
    assert choose("auto") == (torch.bfloat16, "bf16, as asked") and choose("fp32")[0] == torch.float32


def test_products_of_any_shape_are_timed():
    assert precision.products_rate(torch.float32, [(8, 16, 4), (8, 4, 16)], seconds=1e-4) > 0
