"""One layer of the decoder: h = x + attention(norm(x)); out = h + mlp(norm(h)) (pre-norm, Xiong et al. 2020)."""

from torch import Tensor, nn

from bloomery.model.attention import Attention, Memory
from bloomery.model.config import ModelConfig
from bloomery.model.mlp import MLP
from bloomery.model.norms import RMSNorm


class Block(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        self.attention_norm = RMSNorm(config.width, config.norm_eps)
        self.attention = Attention(config.width, config.heads, config.kv_heads, config.head_width)
        self.mlp_norm = RMSNorm(config.width, config.norm_eps)
        self.mlp = MLP(config.width, config.hidden)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, memory: Memory, layer: int) -> Tensor:
        x = x + self.attention(self.attention_norm(x), cos, sin, memory, layer)
        return x + self.mlp(self.mlp_norm(x))
