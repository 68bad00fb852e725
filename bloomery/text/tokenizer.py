"""Token ids: byte-level BPE from the `tokenizers` library, kept as a Hugging Face tokenizer folder.

Control tokens mark documents and turns.  Text is always encoded with control tokens switched off, so that a person who
types `<|im_start|>` gets those characters and never the token.
"""

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers

from bloomery.core.artifacts import write_atomic
from bloomery.core.errors import InputError

END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CONTROL = (END_OF_TEXT, TURN_START, TURN_END)
SMALLEST = 256 + len(CONTROL)           # one token for every byte, and the control tokens


class Tokenizer:
    """Text to ids and back. `eos` ends a document, `turn_start` and `turn_end` frame a message."""

    def __init__(self, backend: Backend):
        self.backend = backend
        backend.encode_special_tokens = True            # control tokens in text stay text
        self.eos, self.turn_start, self.turn_end = (self._control(name) for name in CONTROL)
        self.size = backend.get_vocab_size()

    def _control(self, name: str) -> int:
        found = self.backend.token_to_id(name)
        if found is None:
            raise InputError(f"the tokenizer has no {name} token", hint="train one with the tokenizer stage")
        return found

    def encode(self, text: str) -> list[int]:
        """Ids of plain text, (n,); no control token is ever among them."""
        return self.backend.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        return [e.ids for e in self.backend.encode_batch_fast(texts, add_special_tokens=False)]

    def decode(self, ids: Iterable[int], *, keep_control: bool = False) -> str:
        """Text of ids; bytes that are not UTF-8 become U+FFFD."""
        return self.backend.decode(list(ids), skip_special_tokens=not keep_control)

    def save(self, folder: Path, *, context: int, chat_template: str) -> None:
        """Write `tokenizer.json`, `tokenizer_config.json` and `chat_template.jinja` for transformers."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.backend.encode_special_tokens = False      # not part of the file format; transformers decides for itself
        write_atomic(folder / "tokenizer.json", self.backend.to_str(pretty=False))
        self.backend.encode_special_tokens = True
        write_atomic(folder / "tokenizer_config.json", json.dumps({
            "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": context, "bos_token": END_OF_TEXT,
            "eos_token": TURN_END, "pad_token": END_OF_TEXT, "clean_up_tokenization_spaces": False,
            "add_bos_token": False, "add_eos_token": False,
            "additional_special_tokens": [TURN_START, TURN_END]}, indent=2))
        write_atomic(folder / "chat_template.jinja", chat_template)


def load_tokenizer(folder: Path) -> Tokenizer:
    """Open a folder with `tokenizer.json`."""
    path = Path(folder) / "tokenizer.json"
    if not path.is_file():
        raise InputError("no tokenizer", where=str(path), why="the file does not exist",
                         hint="give the folder of a tokenizer stage or of a model")
    return Tokenizer(Backend.from_file(str(path)))


def train_tokenizer(texts: Iterable[str], *, vocabulary: int) -> Tokenizer:
    """Byte-level BPE with `vocabulary` ids, control tokens first; GPT-2's splitting (Radford et al. 2019).

    The result is a function of the texts: pairs are merged by count, ties by the ids of the pair.
    """
    if vocabulary < SMALLEST:
        raise InputError(f"a vocabulary of {vocabulary} is too small",
                         why=f"256 bytes and {len(CONTROL)} control tokens need {SMALLEST}")
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=list(CONTROL), show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    backend.train_from_iterator(texts, trainer)
    return Tokenizer(backend)
