"""Networks that read a source and write a target, by name, and the options from which one is made.

A preset is a value; anything it sets can be overridden.
"""

from typing import Literal

from pydantic import Field

from bloomery.core.config import Settings
from bloomery.core.errors import ConfigError
from bloomery.model.rnn import RNN, RNNConfig
from bloomery.model.seq2seq import EncoderDecoder, Seq2SeqConfig

Network = EncoderDecoder | RNN


def t5(depth: int, width: int, heads: int, hidden: int, *, v11: bool = False, head_width: int = 64) -> Seq2SeqConfig:
    """Raffel et al. 2020, section 3.1.1, and the sizes of 3.6; v1.1 is Shazeer 2020's gated layer, and no tying."""
    return Seq2SeqConfig(
        vocabulary=32_128, context=512, depth=depth, encoder_depth=depth, width=width, heads=heads, kv_heads=heads,
        head_width=head_width, hidden=hidden, norm="rms", norm_eps=1e-6, positions="none", score_width=1.0,
        relative_buckets=32, activation="geglu_tanh" if v11 else "relu", tied=not v11, scaled_head=not v11, dropout=0.1)


def original(depth: int, width: int, heads: int, dropout_: float, vocabulary: int = 37_000) -> Seq2SeqConfig:
    """Vaswani et al. 2017, table 3."""
    return Seq2SeqConfig(
        vocabulary=vocabulary, context=512, depth=depth, encoder_depth=depth, width=width, heads=heads, kv_heads=heads,
        head_width=width // heads, hidden=4 * width, norm="layer", norm_order="post", positions="sinusoidal",
        scaled_embedding=True, activation="relu", biases="all", tied=True, dropout=dropout_)


NETWORKS = {
    "transformer-tiny": original(3, 256, 4, 0.2), "transformer-base": original(6, 512, 8, 0.1),
    "transformer-big": original(6, 1024, 16, 0.3),
    "t5-tiny": t5(4, 256, 4, 1024), "t5-small": t5(6, 512, 8, 2048), "t5-base": t5(12, 768, 12, 3072),
    "t5-large": t5(24, 1024, 16, 4096),
    "t5-v1.1-tiny": t5(4, 256, 4, 512, v11=True), "t5-v1.1-small": t5(8, 512, 6, 1024, v11=True),
    "t5-v1.1-base": t5(12, 768, 12, 2048, v11=True), "t5-v1.1-large": t5(24, 1024, 16, 2816, v11=True),
}


class NetworkOptions(Settings):
    """A network from nothing. What is not given is the preset's; a transformer's heads share its width."""

    preset: Literal["rnn", *NETWORKS] = Field("rnn", description="the kind of network, by name")
    width: int | None = Field(None, gt=0, description="size of embeddings; of a transformer also of its stream")
    hidden: int | None = Field(None, gt=0, description="size of an RNN's states, or of the feed-forward layers")
    depth: int | None = Field(None, gt=0, description="layers, of encoder and decoder each")
    heads: int | None = Field(None, gt=0, description="transformers: heads of attention")
    cell: Literal["gru", "lstm"] | None = Field(None, description="rnn: gru or lstm")
    attention: Literal["bahdanau", "dot", "general", "none"] | None = Field(
        None, description="rnn: how a state scores what the encoder read")
    bidirectional: bool | None = Field(None, description="rnn: the encoder reads both ways")
    dropout: float | None = Field(None, ge=0, lt=1, description="share of activations dropped in training")
    tied: bool | None = Field(None, description="the head is the embedding")
    context: int = Field(128, gt=1, description="longest source or target in tokens; longer pairs are left out")


def network(options: NetworkOptions, *, vocabulary: int, start: int, seed: int) -> Network:
    """A new network; a `ConfigError` says which options do not fit its kind."""
    given = {name: value for name in NetworkOptions.model_fields
             if name != "preset" and (value := getattr(options, name)) is not None}
    try:
        shape = shaped(options.preset, given | {"vocabulary": vocabulary, "start_id": start})
    except ValueError as error:
        raise ConfigError(f"a network of the kind {options.preset} cannot be made of these options", where="network",
                          why=str(error)) from error
    return (RNN if isinstance(shape, RNNConfig) else EncoderDecoder)(shape, seed=seed)


def shaped(preset: str, given: dict) -> Seq2SeqConfig | RNNConfig:
    """The preset with what is given; heads of a transformer share its width, those of a T5 have their own."""
    if preset == "rnn":
        return RNNConfig(**given)
    base = NETWORKS[preset]
    if "depth" in given:
        given = {"encoder_depth": given["depth"]} | given
    heads, width = given.get("heads", base.heads), given.get("width", base.width)
    head_width = base.head_width if base.relative_buckets else width // heads
    return Seq2SeqConfig(**dict(base) | given | {"heads": heads, "kv_heads": heads, "head_width": head_width})
