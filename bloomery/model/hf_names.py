"""Our weight names beside Hugging Face's: one table a family.

A row is ours -> theirs; where one matrix of ours is several of theirs, the rows of ours are theirs one below the other.
`{l}` is the layer.
"""

LLAMA = {
    "embedding.weight": ["model.embed_tokens.weight"],
    "head.weight": ["lm_head.weight"],
    "norm.weight": ["model.norm.weight"],
    "blocks.{l}.attention_norm.weight": ["model.layers.{l}.input_layernorm.weight"],
    "blocks.{l}.attention.qkv.weight": [f"model.layers.{{l}}.self_attn.{x}_proj.weight" for x in "qkv"],
    "blocks.{l}.attention.output.weight": ["model.layers.{l}.self_attn.o_proj.weight"],
    "blocks.{l}.mlp_norm.weight": ["model.layers.{l}.post_attention_layernorm.weight"],
    "blocks.{l}.mlp.gate_up.weight": ["model.layers.{l}.mlp.gate_proj.weight", "model.layers.{l}.mlp.up_proj.weight"],
    "blocks.{l}.mlp.down.weight": ["model.layers.{l}.mlp.down_proj.weight"],
}

FAMILIES = {"llama": LLAMA}
