"""Case `mfu` (B2): how much of the machine's matrix products training makes use of, in bf16.

    MFU = (6 N + 12 L D T) tokens/s / peak              Chowdhery et al. 2022, appendix B

`peak` is the fastest product of 512..4096 cubed, measured in the same process before and after training, and tokens/s
are those of the fastest step: what other machines' programs take of this one must not enter one side only.  The mean
over all steps stands beside it, and the share of 6 N alone, since the 12 counts keys a causal model never looks at.
Ratio = MFU; there is no peer.
"""

import json
from collections.abc import Iterator

from benchmarks.harness import PASSED, Broken, Options, Row, fresh, quartiles
from bloomery.model.presets import sized

HIDDEN = {512: 1376, 256: 704, 768: 2048}
LENGTHS = (512, 256, 1024, 2048)
TOKENS = 4096                           # a step, whatever the length
LAYERS, VOCABULARY = 8, 16_384


def spec(width: int, tokens: int, *, steps: int) -> dict:
    config = sized(LAYERS, vocabulary=VOCABULARY, context=tokens, width=width, hidden=HIDDEN[width])
    return {"model": config.model_dump(), "rows": TOKENS // tokens, "tokens": tokens, "steps": steps,
            "precision": "bf16", "peak": True}


def utilisation(width: int, tokens: int, run: dict) -> tuple[float, float, float]:
    """MFU of the fastest step, the share of the peak that 6 N alone accounts for, and MFU of the mean step."""
    parameters = sized(LAYERS, vocabulary=VOCABULARY, context=tokens, width=width, hidden=HIDDEN[width]).parameters()
    attention = 12 * LAYERS * width * tokens
    return (*(flops * run["fastest"] / run["peak"] for flops in (6 * parameters + attention, 6 * parameters)),
            (6 * parameters + attention) * run["rate"] / run["peak"])


def run(options: Options) -> Iterator[Row]:
    """One row a width and length; 2^9 is 512 tokens, so that a width is the only plain number in a name."""
    for width in HIDDEN:
        for tokens in LENGTHS[:1] if options.quick else LENGTHS:
            asked = json.dumps(spec(width, tokens, steps=6 if options.quick else 13))
            runs = [fresh(options, "training", "ours", asked) for _ in range(options.pairs)]
            low, middle, high = quartiles([utilisation(width, tokens, each)[0] for each in runs])
            plain, mean = (quartiles([utilisation(width, tokens, each)[which] for each in runs])[1] for which in (1, 2))
            if middle > 1:
                raise Broken(f"an MFU of {middle:.2f} at width {width}: the peak was not measured at rest")
            yield Row(f"{width}, T=2^{tokens.bit_length() - 1}", PASSED, middle, low, high,
                      quartiles([each["fastest"] for each in runs])[1], None, "tokens/s", 1.0,
                      {"6N alone": round(plain, 3), "mean step": round(mean, 3),
                       "peak_gflops": [round(each["peak"] / 1e9) for each in runs]})
