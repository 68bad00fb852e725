"""Preference pairs as token ids, and as forests with the reference's log-probabilities beside them."""

from dataclasses import dataclass

from torch import Tensor

from bloomery.core.errors import InputError
from bloomery.core.records import Preference
from bloomery.data.answers import PreferenceBatch, answer_forest, tokens
from bloomery.text.chat import Renderer


@dataclass(frozen=True)
class Pair:
    """A preference as token ids."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]

    @property
    def answers(self) -> list[list[int]]:
        return [self.chosen, self.rejected]

    @property
    def tokens(self) -> int:
        return tokens(self.prompt, self.answers)


def render_pairs(data: list[Preference], renderer: Renderer, context: int, *, where: str) -> tuple[list[Pair], dict]:
    """Preferences as ids and counts of what was dropped: answers too long for the context, or equal as ids."""
    pairs, too_long, equal = [], 0, 0
    for row in data:
        pair = Pair(renderer.prompt(row.prompt), renderer.answer(row.chosen), renderer.answer(row.rejected))
        if pair.chosen == pair.rejected:
            equal += 1
        elif len(pair.prompt) + max(map(len, pair.answers)) > context:
            too_long += 1
        else:
            pairs.append(pair)
    if not pairs:
        raise InputError("no preference pair is left", where=where,
                         why=f"of {len(data)} rows {too_long} are longer than the context of {context} tokens and "
                             f"{equal} have equal answers", hint="look at the rows with: bloomery show data")
    return pairs, {"pairs": len(pairs), "dropped/too_long": too_long, "dropped/equal_answers": equal}


def pair_batch(pairs: list[Pair], reference: Tensor) -> PreferenceBatch:
    """Pairs as one forest; `reference` (2P,) are the answers' log-probabilities under the reference, chosen first."""
    return PreferenceBatch(**vars(answer_forest([p.prompt for p in pairs], [p.answers for p in pairs])),
                           reference=reference)
