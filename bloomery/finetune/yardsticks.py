"""What is reached on questions about texts without a network: the least that a reader is worth beside.

    random      a span of the text, its length that of a training answer        Rajpurkar et al. 2016, section 5
    sentence    the sentence that shares most with the question, by TF-IDF      their sliding window is a little better
"""

import random
from collections.abc import Sequence

from bloomery.classic.tfidf import TfIdf
from bloomery.classic.words import sentences, terms
from bloomery.core.records import unit_hash
from bloomery.finetune.questions import Asked


def random_spans(asked: Sequence[Asked], lengths: Sequence[int]) -> list[str]:
    """A span of words for each question, named by its text: its length is one of `lengths`, those of known answers."""
    found = []
    for one in asked:
        draw, words = random.Random(unit_hash(one.id + one.question, "span")), one.context.split()
        count = min(draw.choice(lengths), len(words))
        first = draw.randrange(len(words) - count + 1)
        found.append(" ".join(words[first:first + count]))
    return found


def nearest_sentences(asked: Sequence[Asked]) -> list[str]:
    """The sentence of each question's text whose TF-IDF vector is nearest; weights are of all sentences asked about."""
    of_text = {one.context: sentences(one.context) or [one.context] for one in asked}
    place, split = {}, []
    for text, own in of_text.items():
        place[text] = range(len(split), len(split) + len(own))
        split += own
    weights = TfIdf((terms(sentence) for sentence in split), tf="sublinear")
    found = []
    for one in asked:
        scores = weights.scores(terms(one.question))
        found.append(split[max(place[one.context], key=lambda number: scores[number])])
    return found


def answer_lengths(asked: Sequence[Asked]) -> list[int]:
    """Words of the first answer of each question that has one."""
    return [len(one.answers[0][0].split()) for one in asked if one.answers] or [1]
