"""When a generation ends, and what of it may be shown: stop strings are found in text, never in token ids.

While text streams, the longest suffix that could still become a stop string is held back, and so are the bytes of an
unfinished character.  Every token is decoded once: the work is linear in what is generated.
"""

from codecs import getincrementaldecoder
from collections.abc import Sequence

from tokenizers import Tokenizer as Backend
from tokenizers.decoders import ByteLevel, DecodeStream

from bloomery.text.tokenizer import Tokenizer


def cut_at_stop(text: str, stops: Sequence[str]) -> tuple[str, str | None]:
    """Text before the earliest stop string and that string (the longest that begins there); (text, None) if none."""
    check(stops)
    found = [(at, -len(stop), stop) for stop in stops if (at := text.find(stop)) >= 0]
    if not found:
        return text, None
    at, _, stop = min(found)
    return text[:at], stop


def held_back(text: str, stops: Sequence[str]) -> int:
    """How many trailing characters of `text` may yet turn out to begin a stop string."""
    check(stops)
    return max((n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)


def check(stops: Sequence[str]) -> None:
    if "" in stops:
        raise ValueError("a stop string must not be empty")


class StopStrings:
    """Turns pieces of text into pieces that are safe to show; `stopped` is the stop string once one was met."""

    def __init__(self, stops: Sequence[str] = ()):
        check(stops)
        self.stops, self.held, self.stopped = stops, "", None

    def push(self, piece: str, *, last: bool = False) -> str:
        """What may be shown now. What was shown before holds no part of a stop string: only the rest is searched."""
        if self.stopped is not None:
            return ""
        text, self.stopped = cut_at_stop(self.held + piece, self.stops)
        safe = len(text) if last or self.stopped is not None else len(text) - held_back(text, self.stops)
        self.held = text[safe:]
        return text[:safe]


class Bytes:
    """Text of byte-level tokens as their characters become complete, in all exactly what `Tokenizer.decode` returns.

    `DecodeStream` waits while text ends in U+FFFD, which a model that speaks nonsense may do for ever, and decodes all
    that it waits for again with every token.
    """

    def __init__(self, backend: Backend, skipped: set[int]):
        self.backend, self.skipped = backend, skipped
        self.decoder = getincrementaldecoder("utf-8")(errors="replace")

    def push(self, id: int) -> str:
        return "" if id in self.skipped else self.decoder.decode(token_bytes(self.backend, id))

    def finish(self) -> str:
        return self.decoder.decode(b"", final=True)


class Words:
    """The same for any other kind of tokenizer, by the library's own stream; the end shows what it still waits for."""

    def __init__(self, backend: Backend):
        self.backend, self.stream, self.ids, self.shown = backend, DecodeStream(skip_special_tokens=True), [], 0

    def push(self, id: int) -> str:
        self.ids.append(id)
        piece = self.stream.step(self.backend, id) or ""
        self.shown += len(piece)
        return piece

    def finish(self) -> str:
        return self.backend.decode(self.ids)[self.shown:]


class TextStream:
    """Token ids one by one to text that is safe to show; `stopped` is the stop string met, `text` all that was."""

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str] = ()):
        backend, self.pieces = tokenizer.backend, []
        skipped = {id for id, token in backend.get_added_tokens_decoder().items() if token.special}
        self.characters = Bytes(backend, skipped) if isinstance(backend.decoder, ByteLevel) else Words(backend)
        self.watch = StopStrings(stops)

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def stopped(self) -> str | None:
        return self.watch.stopped

    def push(self, id: int) -> str:
        """What one more token lets be shown, "" while it is held back."""
        return self._show(self.watch.push(self.characters.push(id)))

    def finish(self) -> str:
        """What was still held back, after the last token; bytes that never became a character are U+FFFD."""
        return self._show(self.watch.push(self.characters.finish(), last=True))

    def _show(self, piece: str) -> str:
        if piece:
            self.pieces.append(piece)
        return piece


def token_bytes(backend: Backend, id: int) -> bytes:
    """What a token of a byte-level vocabulary stands for; one not written in its alphabet is its own UTF-8."""
    token = backend.id_to_token(id) or ""
    try:
        return bytes(BYTES[character] for character in token)
    except KeyError:
        return token.encode()


# GPT-2's alphabet (Radford et al. 2019): printable bytes are themselves, the others follow from U+0100 on.
PRINTABLE = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
BYTES = {chr(byte): byte for byte in PRINTABLE} | {
    chr(256 + n): byte for n, byte in enumerate(byte for byte in range(256) if byte not in PRINTABLE)}
