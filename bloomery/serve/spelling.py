"""Tokens and their log-probabilities as the API writes them: text, bytes, and the likeliest others.

A token of a byte-level tokenizer may be a part of a character.  Chat answers give its bytes beside the text;
completions, which have no place for bytes, write `bytes:\\xe2\\x80` as OpenAI does, so that no two tokens look the
same.  Log-probabilities are the model's own, whatever was sampled from.
"""

from collections.abc import Iterable, Sequence

from tokenizers import pre_tokenizers

from bloomery.generate.sampling import Token
from bloomery.text.tokenizer import Tokenizer

LOWEST = -9999.0            # JSON has no infinity; OpenAI writes this


def byte_letters() -> dict[str, int]:
    """The letter that stands for each byte in a byte-level vocabulary: printable ones for themselves (GPT-2)."""
    own = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in set(own)]
    return {chr(byte): byte for byte in own} | {chr(256 + place): byte for place, byte in enumerate(rest)}


class Spelling:
    """How a tokenizer's ids are written."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        by_bytes = isinstance(tokenizer.backend.pre_tokenizer, pre_tokenizers.ByteLevel)
        self.letters = byte_letters() if by_bytes else {}

    def bytes(self, token: int) -> bytes:
        name = self.tokenizer.backend.id_to_token(token) or ""
        if self.letters and all(letter in self.letters for letter in name):
            return bytes(self.letters[letter] for letter in name)
        return self.tokenizer.decode([token], keep_control=True).encode()

    def text(self, token: int) -> str:
        return self.bytes(token).decode(errors="replace")

    def distinct(self, token: int) -> str:
        """Text where the bytes are text, else the bytes in words."""
        found = self.bytes(token)
        try:
            return found.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in found)

    def chat(self, tokens: Iterable[Token]) -> dict:
        """`logprobs` of a chat choice."""
        return {"content": [{**self._one(token.id, token.raw), "top_logprobs": [self._one(*pair) for pair in token.top]}
                            for token in tokens], "refusal": None}

    def _one(self, token: int, logp: float) -> dict:
        return {"token": self.text(token), "logprob": max(logp, LOWEST), "bytes": list(self.bytes(token))}

    def completion(self, first: int | None, tokens: Sequence[Token], offset: int = 0) -> dict:
        """`logprobs` of a completion's choice; `first` is an echoed token nothing stands before, `offset` where text
        begins."""
        ids = [*([] if first is None else [first]), *(token.id for token in tokens)]
        names, offsets = [self.distinct(token) for token in ids], []
        for token, name in zip(ids, names, strict=True):
            offsets.append(offset)
            offset += 0 if token in self.control else len(name)
        unknown = [] if first is None else [None]
        tops: list[dict[str, float] | None] = [*unknown]
        for token in tokens:
            top: dict[str, float] = {}                          # the token itself too, though it may be unlikely
            for other, logp in [*token.top, (token.id, token.raw)] if token.top else ():
                top.setdefault(self.distinct(other), max(logp, LOWEST))
            tops.append(top)
        return {"tokens": names, "token_logprobs": [*unknown, *(max(token.raw, LOWEST) for token in tokens)],
                "top_logprobs": tops, "text_offset": offsets}

    @property
    def control(self) -> frozenset[int]:
        return self.tokenizer.control
