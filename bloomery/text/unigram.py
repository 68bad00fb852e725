"""Unigram: pieces of words by how likely they are, the likeliest way to cut a word being taken.

    P(word) = prod_i p(piece_i),    ids = argmax over all cuts                  Kudo 2018, arXiv 1804.10959

Trained by the `tokenizers` library: EM over a large seed of pieces, of which the least useful go.  Pieces are made of
bytes as in GPT-2's BPE and every byte is one, so that any text comes back as it was and nothing is unknown.
"""

from collections.abc import Iterable, Sequence

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers

from bloomery.core.errors import InputError
from bloomery.text.tokenizer import CONTROL, SMALLEST, Tokenizer


def unigram(texts: Iterable[str], *, vocabulary: int, reserved: Sequence[str] = ()) -> Tokenizer:
    """Unigram with `vocabulary` ids, control tokens and reserved ones first."""
    names = [*CONTROL, *reserved]
    if vocabulary < SMALLEST + len(reserved):
        raise InputError(f"a vocabulary of {vocabulary} is too small",
                         why=f"256 bytes and {len(names)} control tokens need {256 + len(names)}")
    backend = Backend(models.Unigram())
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    backend.train_from_iterator(texts, trainers.UnigramTrainer(
        vocab_size=vocabulary, special_tokens=names, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return Tokenizer(backend)
