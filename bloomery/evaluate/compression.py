"""What text costs without a network: general compressors and byte n-grams, in bits a byte, beside the model's."""

import lzma

import pyarrow as pa

from bloomery.classic.ngram import ByteNgram


def compressor_bits_per_byte(documents: list[bytes]) -> dict[str, float]:
    """`xz -9` and `zstd -19` of the documents joined by newlines, no training text given."""
    joined = b"\n".join(documents)
    sizes = {"xz": len(lzma.compress(joined, preset=9)),
             "zstd": len(pa.Codec("zstd", compression_level=19).compress(joined, asbytes=True))}
    return {name: 8 * size / len(joined) for name, size in sizes.items()}


def ngram_bits_per_byte(train: list[bytes], held_out: list[bytes], *, order: int = 5) -> float:
    """Interpolated Kneser-Ney of bytes, counted on the text the model was trained on."""
    nats = ByteNgram(order).fit(train).nats(held_out)
    return nats / 0.6931471805599453 / sum(map(len, held_out))
