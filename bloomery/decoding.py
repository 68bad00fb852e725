"""The options of decoding: how an answer is drawn, for `bloomery chat` and `bloomery generate` alike.

Nothing here needs torch: the command line makes its options, and `--help`, from these fields.
"""

import os
from typing import Any, Literal, TypeVar

from pydantic import Field, model_validator

from bloomery import SPIN
from bloomery.core.config import Settings, assign, check, raise_problems

Options = TypeVar("Options", bound="Decoding")


def decoding_threads() -> None:
    """Set for a process that decodes what is read once, when torch is loaded.

    MKL's products round alike in every thread.  OpenMP's threads wait awake from one product to the next: asleep they
    made a step of 4.1 ms one of 5.7, a hundred small products being 20 microseconds apart.
    """
    os.environ.setdefault("MKL_CBWR", "AVX2,STRICT")
    if os.environ.get("GOMP_SPINCOUNT") == SPIN:
        os.environ["GOMP_SPINCOUNT"] = "5000"


class Decoding(Settings):
    """How every answer is drawn; in which order the options act is said in `generate/sampling.py`."""

    temperature: float = Field(0.0, ge=0, description="0 always takes the likeliest token, 1 samples as trained")
    top_p: float = Field(1.0, gt=0, le=1, description="only among the likeliest tokens that have this much of the mass")
    top_k: int = Field(0, ge=0, description="only among the k likeliest tokens; 0: all")
    min_p: float = Field(0.0, ge=0, le=1, description="only among tokens this share as likely as the likeliest")
    typical_p: float = Field(1.0, gt=0, le=1, description="only among those of typical surprise with this mass")
    repetition_penalty: float = Field(1.0, gt=0, description="above 1: what was read or said is less likely")
    presence_penalty: float = Field(0.0, ge=-2, le=2, description="taken off the logit of what was said already")
    frequency_penalty: float = Field(0.0, ge=-2, le=2, description="the same for each time it was said")
    no_repeat_ngram: int = Field(0, ge=0, description="no sequence of so many tokens comes twice; 0: any may")
    seed: int = Field(0, ge=0, description="the same seed draws the same answer")
    max_tokens: int = Field(200, ge=1, description="tokens of one answer at most")
    min_tokens: int = Field(0, ge=0, description="the answer does not end before so many tokens")
    stop: list[str] = Field([], description="ends the answer before this text; may be given several times")
    precision: Literal["bf16", "fp32"] = Field("fp32", description="dtype of weights and matrix products")
    device: str = Field("auto", description="cpu, cuda, cuda:1, mps, or auto: a GPU if there is one, else cpu")

    @model_validator(mode="after")
    def stops_are_texts(self) -> "Decoding":
        if "" in self.stop:
            raise ValueError("a stop string must not be empty")
        return self


class ChatOptions(Decoding):
    """Options of `bloomery chat`."""

    system: str = Field("", description="a system message to start with")


class GenerateOptions(Decoding):
    """Options of `bloomery generate`."""

    n: int = Field(1, ge=1, description="completions kept of each prompt")
    best_of: int | None = Field(None, ge=1, description="completions drawn, of which the n best are kept")
    beams: int = Field(1, ge=1, description="continuations searched side by side, of which the n best are kept; for "
                                            "networks that read a source")
    length_penalty: float = Field(1.0, description="beams are judged by log p / length^this")
    reward: list[str] = Field([], description="a reward model that scores them; of several, see --combine; "
                                              "default: their mean log-probability")
    combine: Literal["mean", "min", "lower", "variance"] = Field(
        "mean", description="how several scores become one; lower, variance: the mean less their deviation, variance")
    system: str = Field("", description="a system message for every dialogue that has none")
    plain: bool | None = Field(None, description="prompts are text to be continued, not questions; default: as the "
                                                 "model was taught")
    ids: bool = Field(False, description="also the ids of every completion")
    slots: int = Field(32, ge=1, description="completions under way at a time")

    @property
    def drawn(self) -> int:
        """Completions drawn for each prompt."""
        return self.best_of or self.n

    @property
    def is_ranked(self) -> bool:
        """Whether completions are scored, and stand best first."""
        return bool(self.reward) or self.best_of is not None

    @model_validator(mode="after")
    def draws_can_differ(self) -> "GenerateOptions":
        if self.drawn < self.n:
            raise ValueError(f"the best {self.n} of {self.drawn} completions: best_of must be at least n")
        if self.drawn > self.slots:
            raise ValueError(f"{self.drawn} completions of a prompt need as many slots, there are {self.slots}")
        if self.beams > 1 and (self.temperature > 0 or self.best_of):
            raise ValueError("a beam search draws nothing: leave out temperature and best_of")
        if 1 < self.beams < self.n:
            raise ValueError(f"the best {self.n} of {self.beams} beams: beams must be at least n")
        if self.beams == 1 and self.drawn > 1 and self.temperature == 0:
            raise ValueError(f"{self.drawn} completions at temperature 0 would all be the same: give a temperature")
        return self


def checked(model: type[Options], values: dict[str, Any]) -> Options:
    """Options from the values of a command line; `ConfigError` lists every problem."""
    found, problems = check(model, values, locate=lambda keys: "option" if keys else "options:")
    raise_problems(problems, what="the options")
    return found


def changed(options: Options, name: str, text: str) -> Options:
    """The same options but for one, its value as a person types it; `ConfigError` where it cannot be."""
    values = options.model_dump(mode="json")
    assign(values, (name.replace("-", "_"),), text, type(options))
    return checked(type(options), values)
