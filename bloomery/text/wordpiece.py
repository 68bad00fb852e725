"""WordPiece, the vocabulary of BERT: words in pieces, of which all but the first begin with `##`.

Pieces are merged as in BPE; a word is then read greedily, the longest piece first, and is `[UNK]` where no piece fits
(Schuster & Nakajima 2012; Devlin et al. 2019).  Text is cleaned and split at spaces and punctuation before, and usually
put into lower case without accents, so decoding does not give the text back.
"""

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
    """WordPiece with `vocabulary` ids, BERT's five roles first; other tools frame texts as [CLS] A [SEP] B [SEP]."""
    backend = Backend(models.WordPiece({}, unk_token=UNKNOWN, max_input_chars_per_word=100))
    backend.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece(prefix=GOES_ON)
    lines = (line for text in texts for line in text.split("\n"))                       # a long text is slow in one
    backend.train_from_iterator(lines, trainers.WordPieceTrainer(
        vocab_size=vocabulary, special_tokens=list(ROLES), continuing_subword_prefix=GOES_ON, show_progress=False))
    frames = [(name, backend.token_to_id(name)) for name in (FIRST, SEPARATOR)]
    backend.post_processor = processors.TemplateProcessing(
        single=f"{FIRST} $A {SEPARATOR}", pair=f"{FIRST} $A {SEPARATOR} $B:1 {SEPARATOR}:1", special_tokens=frames)
    return Tokenizer(backend, SETTINGS)
