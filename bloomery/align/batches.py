"""Pairs and rated answers as forests, step by step: every prompt once, micro-batches as full as they can be."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from bloomery.align.pairs import Pair, Rated
from bloomery.data.answers import PreferenceBatch, RatingBatch, ReferencedBatch, answer_forest, tokens
from bloomery.data.batch import Batch
from bloomery.data.packing import best_fit_decreasing
from bloomery.data.stream import Stream, samples


def pair_batch(pairs: Sequence[Pair], reference: Tensor, *, tail: float = 1.0,
               prompts_count: bool = False) -> PreferenceBatch:
    """Pairs as one forest; `reference` (2P,) are the answers' log-probabilities under the reference, chosen first."""
    batch = answer_forest([p.prompt for p in pairs], [p.answers for p in pairs], tail=tail, prompts_count=prompts_count)
    return PreferenceBatch(**vars(batch), reference=reference, margin=torch.tensor([p.margin for p in pairs]),
                           share=torch.tensor([p.share for p in pairs]))


def rating_batch(groups: Sequence[Sequence[Rated]], reference: Tensor, scale: dict[bool, float]) -> RatingBatch:
    """Groups of rated answers as one forest, and their mismatched answers as another; `reference` (A, 2) is of both."""
    items = [item for group in groups for item in group]
    prompts = [item.prompt for item in items]
    answers = [[item.completion] for item in items], [[item.mismatched] for item in items]
    own, other = (ReferencedBatch(**vars(answer_forest(prompts, theirs)), reference=told.contiguous())
                  for theirs, told in zip(answers, reference.T, strict=True))
    group = torch.arange(len(groups)).repeat_interleave(torch.tensor([len(group) for group in groups]))
    return RatingBatch(**vars(own), mismatched=other, group=group, scale=scale,
                       desirable=torch.tensor([item.desirable for item in items]))


def paired(pairs: Sequence[Pair], reference: Tensor, *, size: int, micro_tokens: int, seed: int, tail: float = 1.0,
           prompts_count: bool = False) -> Stream:
    """Each step `size` pairs in the order of `samples`, best-fit into forests of at most `micro_tokens`."""
    def batches(step: int) -> list[Batch]:
        chosen = samples(step, size, len(pairs), seed)
        sizes = [pairs[i].tokens for i in chosen]
        bins = best_fit_decreasing(sizes, max(micro_tokens, *sizes))
        return [pair_batch([pairs[chosen[i]] for i in group], reference[chosen[group]].flatten(), tail=tail,
                           prompts_count=prompts_count) for group in bins]

    return batches


def rated(items: Sequence[Rated], reference: Tensor, *, size: int, group: int, micro_tokens: int, seed: int) -> Stream:
    """Each step `size` rated answers, best-fit in groups of `group`, or one more, that share an estimate of the KL.

    The group is the data's, not the micro-batch's, so that the step is the same whatever `micro_tokens`.
    """
    bounds = [*range(0, max(size - 1, 1), group), size]         # no answer is left alone

    def batches(step: int) -> list[Batch]:
        chosen = samples(step, size, len(items), seed)
        groups = [chosen[first:last] for first, last in pairwise(bounds)]
        wanted = sum(items[i].desirable for i in chosen)
        scale = {kind: size / count for kind, count in ((True, wanted), (False, size - wanted)) if count}
        sizes = [sum(tokens(items[i].prompt, [items[i].completion]) for i in rows) for rows in groups]
        bins = best_fit_decreasing(sizes, max(micro_tokens, *sizes))
        return [rating_batch([[items[i] for i in groups[g]] for g in found],
                             torch.cat([reference[groups[g]] for g in found]), scale) for found in bins]

    return batches
