"""Closed vocabularies: every character, or every word, that the corpus has is one id.

For yardsticks that are stated so: tiny Shakespeare in nats a character, WikiText in perplexity a word.  Both give back
the text they were given: a word keeps the space before it (" word"), a line end is a word of its own, as in WikiText's
count.  What the corpus does not have is unknown: U+FFFD among characters, ` <unk>` among words, which is also what
WikiText itself writes for a rare word.
"""

import re
from collections import Counter
from collections.abc import Iterable

from tokenizers import Regex, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from bloomery.text.tokenizer import CONTROL, Tokenizer

TYPED = r"<(?=(?:" + "|".join(re.escape(name[1:]) for name in CONTROL) + r")(?!\S))"      # no word is a control token
CHARACTER, WORD = r"[\s\S]", TYPED + r"| ?\S+| ?\n|\s"
UNKNOWN = {CHARACTER: "\ufffd", WORD: " <unk>"}


def characters(texts: Iterable[str], *, vocabulary: int | None = None) -> Tokenizer:
    """Every character one id, in the order of their code points behind the control tokens."""
    return closed(texts, CHARACTER, vocabulary)


def words(texts: Iterable[str], *, vocabulary: int | None = None) -> Tokenizer:
    """Every word between spaces one id, the commonest first, `vocabulary` ids in all."""
    return closed(texts, WORD, vocabulary)


def closed(texts: Iterable[str], pattern: str, vocabulary: int | None) -> Tokenizer:
    """Ids for the pieces that `pattern` finds: control tokens, the unknown, then words by count or characters in order.

    Ties go by text.  The ids of characters are those that other tools give them, plus four.
    """
    splitter, counts = pre_tokenizers.Split(Regex(pattern), "isolated"), Counter()
    for text in texts:
        lines = [] if pattern == CHARACTER else re.findall(r"[^\n]*\n|[^\n]+", text)
        counts.update(piece for line in lines for piece, _ in splitter.pre_tokenize_str(line))
        counts.update(text if pattern == CHARACTER else ())
    names = [*CONTROL, UNKNOWN[pattern]]
    pieces = sorted(counts.keys() - set(names), key=lambda piece: (-counts[piece], piece))
    kept = pieces[:None if vocabulary is None else max(vocabulary - len(names), 0)]
    order = sorted(kept) if pattern == CHARACTER else kept
    backend = Backend(models.WordLevel({name: i for i, name in enumerate([*names, *order])}, UNKNOWN[pattern]))
    backend.pre_tokenizer, backend.decoder = splitter, decoders.Fuse()
    backend.add_special_tokens(list(CONTROL))
    return Tokenizer(backend)
