"""Published recipes as data: the steps of a corpus in their order, each with the options its makers used.

`preset = "fineweb"` fills in what a configuration does not say itself; every option can still be set.  What a recipe
takes from elsewhere is not here: lists for `url`, evaluation sets for `decontamination`, trained models for `quality`
and `toxicity` are files to name.  English is what they were made for: set `language.languages` and the stop-words for
another.  Local steps between two global ones see the same text, so `exact` stands where edits must have been made.

    gopher       Rae et al. 2021, MassiveText; near duplicates by minhash
    c4           Raffel et al. 2020; (line_words, sentences) as in the published code is `c4 = {line_words = 5, ...}`.
                 0.99 is langdetect's, whose kin langid is: it keeps 94 % of 300 pages of C4, lid.176 at 0.99 only 4 %
    fineweb      Penedo et al. 2024 and its code: words as datatrove splits them, C4 without terminal punctuation
    refinedweb   Penedo et al. 2023: Gopher, line edits, near duplicates of 9000 hashes, repeated passages
    dolma        Soldaini et al. 2024, web part: Gopher as its taggers count, lines must end, paragraphs once
    dclm         Li et al. 2024, before its classifier: RefinedWeb as DCLM rebuilt it
"""

from typing import Any

from bloomery.curate.c4 import PAPER
from bloomery.curate.repetition import TABLE_A1

ENGLISH = {"languages": ("en",), "threshold": 0.65}
DATATROVE = {"counting": "datatrove", "words": "english"}

PRESETS: dict[str, dict[str, Any]] = {
    "gopher": {"steps": ("language", "gopher", "repetition", "minhash"), "language": ENGLISH, "repetition": TABLE_A1,
               "minhash": {"preset": "gopher"}},
    "c4": {"steps": ("language", "c4", "sentences"), "language": ENGLISH | {"threshold": 0.99, "library": "langid"},
           "c4": PAPER | {"longest_text": 190_000}},
    "fineweb": {"steps": ("url", "language", "repetition", "gopher", "c4", "exact", "fineweb", "minhash", "pii"),
                "language": ENGLISH, "repetition": DATATROVE | TABLE_A1, "gopher": DATATROVE,
                "c4": PAPER | {"ends": ()}, "fineweb": {"words": "english"}, "minhash": {"preset": "fineweb"},
                "pii": {"kinds": ("email", "ipv4"), "most": None}},
    "refinedweb": {"steps": ("url", "language", "repetition", "gopher", "refinedweb", "minhash", "substring"),
                   "language": ENGLISH, "repetition": TABLE_A1, "minhash": {"preset": "refinedweb"}},
    "dolma": {"steps": ("url", "language", "gopher", "repetition", "c4", "paragraphs", "pii"),
              "language": ENGLISH | {"threshold": 0.5},
              "gopher": {"counting": "dolma", "mean_word_length": None, "median_word_length": (3, 10)},
              "repetition": {"counting": "dolma", "duplicate_line_characters": (0, 0.3),
                             "without": ("duplicate_paragraphs", "duplicate_paragraph_characters")} | TABLE_A1,
              "c4": {"line_words": 0, "sentences": 0, "longest_word": 0, "citations": False, "javascript": False,
                     "policy": False, "lorem_ipsum": False, "curly_bracket": False}},
    "dclm": {"steps": ("url", "language", "gopher", "repetition", "refinedweb", "minhash"), "language": ENGLISH,
             "gopher": {"counting": "dclm"}, "repetition": {"counting": "dclm"} | TABLE_A1},
}


def with_preset(values: dict[str, Any]) -> dict[str, Any]:
    """The values of a configuration on top of those of the preset it names; a table is filled in option by option."""
    filled = dict(PRESETS.get(values.get("preset") or "", {}))
    for name, value in values.items():
        both = isinstance(value, dict) and isinstance(filled.get(name), dict)
        filled[name] = filled[name] | value if both else value
    return filled
