"""A random model that can be asked."""

from bloomery.model.config import ModelConfig
from bloomery.model.transformer import Transformer
from bloomery.text.chat import Renderer
from bloomery.text.tokenizer import SMALLEST, train_tokenizer


def chatting(*, context: int) -> tuple[Transformer, Renderer]:
    config = ModelConfig(vocabulary=SMALLEST, context=context, depth=1, width=16, heads=2, kv_heads=2, head_width=8,
                         hidden=16)
    return Transformer(config, seed=5), Renderer(train_tokenizer(["raw ore"], vocabulary=SMALLEST))
