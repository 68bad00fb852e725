"""Token ids: byte-level BPE from the `tokenizers` library, kept as a Hugging Face tokenizer folder.

Control tokens mark documents and turns.  Text is always encoded with control tokens switched off, so that a person who
types `<|im_start|>` gets those characters and never the token.
"""

import json
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers

from bloomery.core.artifacts import write_atomic
from bloomery.core.errors import InputError
from bloomery.text.encode import Encoder, encoder

END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CONTROL = (END_OF_TEXT, TURN_START, TURN_END)
ROLES = tuple(f"{role}_token" for role in ("bos", "eos", "unk", "cls", "sep", "mask", "pad"))
MANY = 1 << 21                          # characters in batches beyond which it pays to load an encoder, for a second
SMALLEST = 256 + len(CONTROL)           # one token for every byte, and the control tokens


class Tokenizer:
    """Text to ids and back. `bos` begins a document and `eos` ends one; `turn_start`, `turn_end` frame a message.

    `settings` is what `tokenizer_config.json` says, None for a new tokenizer of ours.  A tokenizer with our control
    tokens has our roles; of any other the settings say which of its tokens begin and end a text.  An encoder's says
    which stands first (`cls`), between texts (`sep`), in the place of what is hidden (`mask`), and fills up (`pad`).
    """

    def __init__(self, backend: Backend, settings: dict | None = None):
        self.backend, self.settings = backend, settings
        self._by_line = isinstance(backend.model, models.WordPiece)     # the same ids: 10 MB at once took two minutes
        backend.no_truncation()
        backend.no_padding()
        said = {role: named(settings or {}, role) for role in ROLES}
        said["eos_token"] = said["eos_token"] or said["sep_token"]
        self.cls, self.sep, self.mask, self.pad = (backend.token_to_id(said[role]) if said[role] else None
                                                   for role in ROLES[3:])
        self._unknown = said["unk_token"]
        self.unknown = backend.token_to_id(self._unknown) if self._unknown else None
        self.eos = self.token(END_OF_TEXT if self.has(END_OF_TEXT) else said["eos_token"])
        self.bos = self.eos if settings is None else self.token(said["bos_token"]) if said["bos_token"] else None
        self.turn_start = backend.token_to_id(TURN_START)
        self.turn_end = self.token(TURN_END if self.has(TURN_END) else said["eos_token"] or END_OF_TEXT)
        self.size, self._asked = backend.get_vocab_size(), 0
        self._guarded: dict[str, int] = {}
        self.guard(())
        self._see_marks()

    @property
    def begin(self) -> int:
        """What stands before a text: its own token, or the end of the text before."""
        return self.eos if self.bos is None else self.bos

    def has(self, name: str) -> bool:
        return bool(name) and self.backend.token_to_id(name) is not None

    def token(self, name: str) -> int:
        """The id of a control token."""
        found = self.backend.token_to_id(name) if name else None
        if found is None:
            raise InputError(f"the tokenizer has no {name} token" if name else "no token ends a text",
                             why="" if name else "tokenizer_config.json names no eos_token",
                             hint="name it there" if not name else "train one with the tokenizer stage")
        return found

    def name(self, token: int | None) -> str:
        return "" if token is None else self.backend.id_to_token(token)

    def guard(self, names: Iterable[str]) -> None:
        """From now on these are in `control`, special or not: ids that `piece` makes of no text."""
        added = self.backend.get_added_tokens_decoder().items()
        special = {token.content: i for i, token in added if token.special}
        self._guarded |= special | {name: self.token(name) for name in names}
        self.control = frozenset(i for name, i in self._guarded.items() if name != self._unknown)
        self._typed = anyof(self._guarded)

    def _see_marks(self) -> None:
        """Whether the first word of a text is marked (SentencePiece's \u2581), and that behind a control token."""
        name, self.backend.encode_special_tokens = self.name(self.eos), False
        behind = self.backend.encode(f"{name}a", add_special_tokens=False).ids[1:]
        self.backend.encode_special_tokens = True       # from here on control tokens in text stay text
        self._line, self._marks = self.encode("\n"), False
        self._marks = self.encode("a") != (inner := self.encode("\na")[len(self._line):])
        self._marks_behind = self._marks and behind != inner

    def encode(self, text: str) -> list[int]:
        """Ids of plain text, (n,); no control token is ever among them."""
        if self._by_line:
            return self.encode_batch([text])[0]
        return self.backend.encode(text, add_special_tokens=False).ids

    def piece(self, text: str, *, behind: bool = False, inside: bool = False) -> list[int]:
        """Ids of a part of a longer text: `behind` a control token, or `inside`, where text goes on.

        The name of a control token that somebody typed is encoded apart, as text, the way transformers does when
        it is asked to (`sanitize_control_tokens`).
        """
        ids: list[int] = []
        for part in filter(None, self._typed.split(text)):
            found = self._part(part, inside or bool(ids) or behind and not self._marks_behind)
            ids += found if self.control.isdisjoint(found) else \
                [*self._part(part[:1], True), *self._part(part[1:], True)]
        if not self.control.isdisjoint(ids):
            raise InputError("the tokenizer makes a control token of plain text", where=text[:80])
        return ids

    def _part(self, text: str, goes_on: bool) -> list[int]:
        """Where text goes on its first word has no mark: it is encoded behind a line end, which is taken off again."""
        if goes_on and self._marks:
            ids = self.encode("\n" + text)
            if ids[:len(self._line)] == self._line:
                return ids[len(self._line):]
        return self.encode(text)

    @cached_property
    def _encoder(self) -> Encoder | None:
        return encoder(self.backend)

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """Ids of each text; after the first `MANY` characters by a compiled encoder where there is one."""
        self._asked += sum(map(len, texts))
        if self._asked > MANY and self._encoder:
            return self._encoder(texts)
        if not self._by_line:
            return [e.ids for e in self.backend.encode_batch_fast(texts, add_special_tokens=False)]
        lines = [text.split("\n") for text in texts]
        found = iter(self.backend.encode_batch_fast([line for own in lines for line in own], add_special_tokens=False))
        return [[i for line in islice(found, len(own)) for i in line.ids] for own in lines]

    def decode(self, ids: Iterable[int], *, keep_control: bool = False) -> str:
        """Text of ids; bytes that are not UTF-8 become U+FFFD."""
        return self.backend.decode(list(ids), skip_special_tokens=not keep_control)

    def save(self, folder: Path, *, context: int, chat_template: str = "") -> None:
        """Write `tokenizer.json`, `tokenizer_config.json` and, if any, `chat_template.jinja` for transformers."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.backend.encode_special_tokens = False      # not part of the file format; transformers decides for itself
        write_atomic(folder / "tokenizer.json", self.backend.to_str(pretty=False))
        self.backend.encode_special_tokens = True
        ours = {
            "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": context, "bos_token": END_OF_TEXT,
            "eos_token": TURN_END, "pad_token": END_OF_TEXT, "clean_up_tokenization_spaces": False,
            "add_bos_token": False, "add_eos_token": False,
            "additional_special_tokens": [TURN_START, TURN_END]}
        settings = {key: value for key, value in (self.settings or ours).items() if key != "chat_template"}
        write_atomic(folder / "tokenizer_config.json",
                     json.dumps(settings | {"model_max_length": context}, indent=2))
        if chat_template:
            write_atomic(folder / "chat_template.jinja", chat_template)


def load_tokenizer(folder: Path) -> Tokenizer:
    """Open a folder with `tokenizer.json`, ours or anybody's; `tokenizer_config.json` beside it names its tokens."""
    path = Path(folder) / "tokenizer.json"
    if not path.is_file():
        raise InputError("no tokenizer", where=str(path), why="the file does not exist",
                         hint="give the folder of a tokenizer stage or of a model")
    settings: dict = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (beside := path.parent / name).is_file():
            settings |= json.loads(beside.read_text(encoding="utf-8"))
    return Tokenizer(Backend.from_file(str(path)), settings or None)


def anyof(names: Iterable[str]) -> re.Pattern:
    """Finds the names, the longer of two first, and keeps them when it splits; of no names, nothing."""
    return re.compile("(" + ("|".join(map(re.escape, sorted(names, key=len, reverse=True))) or "(?!)") + ")")


def named(settings: dict, role: str) -> str:
    """The token of a role, which older files write as a table of its flags."""
    found = settings.get(role) or ""
    return found if isinstance(found, str) else found["content"]


def train_tokenizer(texts: Iterable[str], *, vocabulary: int, reserved: Sequence[str] = ()) -> Tokenizer:
    """Byte-level BPE with `vocabulary` ids, control and reserved tokens first; GPT-2's splitting (Radford et al. 2019).

    The result is a function of the texts: pairs are merged by count, ties by the ids of the pair.
    """
    if vocabulary < SMALLEST + len(reserved):
        raise InputError(f"a vocabulary of {vocabulary} is too small",
                         why=f"256 bytes and {len(CONTROL) + len(reserved)} control tokens need "
                             f"{SMALLEST + len(reserved)}")
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=[*CONTROL, *reserved], show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    backend.train_from_iterator(texts, trainer)
    return Tokenizer(backend)
