"""The average of weights: its formula, what a model is inside `applied`, and an exact restart."""

import pytest
import torch

from bloomery.core.errors import InputError
from bloomery.data.batch import rectangle
from bloomery.model.config import ModelConfig
from bloomery.model.transformer import Transformer
from bloomery.train.ema import Ema
from bloomery.train.loop import fit
from bloomery.train.objective import causal_lm
from bloomery.train.optim import OptimizerConfig
from bloomery.train.state import State, fresh

CONFIG = ModelConfig(vocabulary=12, context=8, depth=1, width=8, heads=2, kv_heads=1, head_width=4, hidden=8)
ROWS = torch.randint(0, 12, (4, 9), generator=torch.Generator().manual_seed(0))


def weights(model: Transformer) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def run(state: State, ema: Ema, steps: int) -> list[dict[str, torch.Tensor]]:
    """Train for some steps; the weights after each."""
    seen: list[dict[str, torch.Tensor]] = []

    def stop(state, report):
        seen.append(weights(state.model))
        return "enough" if len(seen) == steps else None

    fit(state, lambda step: [rectangle(ROWS)], causal_lm, [ema, stop])
    return seen


def begun() -> tuple[State, Ema]:
    state = fresh(Transformer(CONFIG), OptimizerConfig(lr=1e-2), steps=50)
    return state, Ema(state.model, 0.8)


def test_it_is_the_formula():
    state, ema = begun()
    expected = weights(state.model)["norm.weight"].double()
    for step, after in enumerate(run(state, ema, 40), start=1):
        decay = min(0.8, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * after["norm.weight"].double()
    torch.testing.assert_close(ema.tensors()["norm.weight"].double(), expected, atol=1e-6, rtol=0)
    assert not torch.equal(ema.tensors()["norm.weight"], state.model.norm.weight)


@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16])
def test_inside_applied_the_model_is_the_average_and_outside_it_is_itself(compute):
    state, ema = begun()
    state.model.compute = compute
    run(state, ema, 3)
    own, average = weights(state.model), {k: v.clone() for k, v in ema.tensors().items()}
    loss = float(causal_lm(state.model, rectangle(ROWS))[0].detach())
    with pytest.raises(KeyError), ema.applied():
        assert all(torch.equal(w, average[name]) for name, w in weights(state.model).items())
        assert float(causal_lm(state.model, rectangle(ROWS))[0].detach()) != loss         # shadows are renewed too
        raise KeyError("validation failed")
    assert all(torch.equal(w, own[name]) for name, w in weights(state.model).items())
    assert all(torch.equal(a, average[name]) for name, a in ema.tensors().items())
    assert float(causal_lm(state.model, rectangle(ROWS))[0].detach()) == loss


def test_it_goes_on_bit_for_bit():
    state, ema = begun()
    run(state, ema, 6)
    straight = {k: v.clone() for k, v in ema.tensors().items()}
    state, ema = begun()
    run(state, ema, 4)
    again = Ema(state.model, 0.8)
    again.restore({k: v.clone() for k, v in ema.tensors().items()})
    run(state, again, 2)
    assert all(torch.equal(straight[name], value) for name, value in again.tensors().items())


def test_an_average_that_does_not_fit_is_refused():
    _, ema = begun()
    saved = {name: value.clone() for name, value in ema.tensors().items()}
    saved["stranger"] = saved.pop("norm.weight")
    with pytest.raises(InputError) as caught:
        ema.restore(saved)
    assert "norm.weight" in caught.value.why and "stranger" in caught.value.why
    with pytest.raises(ValueError, match="decay must be in"):
        Ema(Transformer(CONFIG), 1.0)
