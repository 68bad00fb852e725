"""WordPiece, the vocabulary of BERT: words in pieces, of which all but the first begin with `##`.

Pieces are merged as in BPE; a word is then read greedily, the longest piece first, and is `[UNK]` where no piece fits
(Schuster & Nakajima 2012; Devlin et al. 2019).  Text is cleaned and split at spaces and punctuation before, and usually
put into lower case without accents, so decoding does not give the text back.
"""

from collections import Counter
from collections.abc import Iterable

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from bloomery.text.tokenizer import Tokenizer

PAD, UNKNOWN, FIRST, SEPARATOR, MASK = ROLES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
SETTINGS = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": PAD, "unk_token": UNKNOWN, "cls_token": FIRST,
            "sep_token": SEPARATOR, "mask_token": MASK, "clean_up_tokenization_spaces": False,
            "model_input_names": ["input_ids", "token_type_ids", "attention_mask"]}
GOES_ON = "##"


def wordpiece(texts: Iterable[str], *, vocabulary: int, lowercase: bool = True) -> Tokenizer:
    """WordPiece with `vocabulary` ids, BERT's five roles first; other tools frame texts as [CLS] A [SEP] B [SEP].

    The result is a function of the texts.  The library numbers the letters that go on in a word as it meets them, in
    the order of a hash table, and breaks ties by these numbers; so they are given theirs before.
    """
    backend = Backend(models.WordPiece({}, unk_token=UNKNOWN))
    backend.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece(prefix=GOES_ON)
    counts = Counter(word for text in texts for line in text.split("\n")                 # a long text is slow in one
                     for word in backend.normalizer.normalize_str(line).split())
    words = {word: [piece for piece, _ in backend.pre_tokenizer.pre_tokenize_str(word)] for word in sorted(counts)}
    inside = sorted({letter for pieces in words.values() for piece in pieces for letter in piece[1:]})
    backend.train_from_iterator(
        (" ".join([word] * count) for word, count in sorted(counts.items())), trainers.WordPieceTrainer(
            vocab_size=vocabulary, special_tokens=[*ROLES, *(GOES_ON + letter for letter in inside)],
            continuing_subword_prefix=GOES_ON, show_progress=False))
    made = Backend(models.WordPiece(backend.get_vocab(), unk_token=UNKNOWN))            # letters are no control tokens
    made.normalizer, made.pre_tokenizer, made.decoder = backend.normalizer, backend.pre_tokenizer, backend.decoder
    made.add_special_tokens(list(ROLES))
    frames = [(name, made.token_to_id(name)) for name in (FIRST, SEPARATOR)]
    made.post_processor = processors.TemplateProcessing(
        single=f"{FIRST} $A {SEPARATOR}", pair=f"{FIRST} $A {SEPARATOR} $B:1 {SEPARATOR}:1", special_tokens=frames)
    return Tokenizer(made, SETTINGS)
