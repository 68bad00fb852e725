"""One layer, attention and then feed-forward, each added to the residual stream.

    pre         x + f(norm(x))              Xiong et al. 2020: GPT-2, Llama
    post        norm(x + f(x))              Vaswani et al. 2017: the original, GPT-1, BERT
    sandwich    x + norm(f(norm(x)))        Gemma-2
"""

from torch import Tensor, nn

from bloomery.model.attention import Attention, Memory
from bloomery.model.config import ModelConfig
from bloomery.model.mlp import MLP
from bloomery.model.norms import NORMS, NoNorm


class Block(nn.Module):
    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        norm, self.order = NORMS[config.norm], config.norm_order
        normed = layer == 0 and config.embedding_norm and self.order == "pre"           # the embeddings come normed
        self.attention_norm = NoNorm() if normed else norm(config.width, config.norm_eps)
        self.attention = Attention(config, layer)
        self.mlp_norm = norm(config.width, config.norm_eps)
        self.mlp = MLP(config.width, config.hidden, config.activation, bias=config.biases == "all")
        if self.order == "sandwich":
            self.attention_after = norm(config.width, config.norm_eps)
            self.mlp_after = norm(config.width, config.norm_eps)

    def forward(self, x: Tensor, cos: Tensor | None, sin: Tensor | None, memory: Memory, layer: int) -> Tensor:
        if self.order == "post":
            x = self.attention_norm(x + self.attention(x, cos, sin, memory, layer))
            return self.mlp_norm(x + self.mlp(x))
        if self.order == "sandwich":
            x = x + self.attention_after(self.attention(self.attention_norm(x), cos, sin, memory, layer))
            return x + self.mlp_after(self.mlp(self.mlp_norm(x)))
        x = x + self.attention(self.attention_norm(x), cos, sin, memory, layer)
        return x + self.mlp(self.mlp_norm(x))
