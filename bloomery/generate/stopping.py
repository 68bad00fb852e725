"""When a generation ends, and what of it may be shown: stop strings are found in text, never in token ids.

While text streams, the longest suffix that could still become a stop string is held back, and so are the bytes of an
unfinished character.
"""


def cut_at_stop(text: str, stops: list[str]) -> tuple[str, str | None]:
    """Text before the earliest stop string and that string (the longest that begins there); (text, None) if none."""
    check(stops)
    found = [(at, -len(stop), stop) for stop in stops if (at := text.find(stop)) >= 0]
    if not found:
        return text, None
    at, _, stop = min(found)
    return text[:at], stop


def held_back(text: str, stops: list[str]) -> int:
    """How many trailing characters of `text` may yet turn out to begin a stop string."""
    check(stops)
    longest = max((len(stop) for stop in stops), default=0)
    return max((n for n in range(1, min(longest, len(text)) + 1)
                if any(len(stop) > n and stop.startswith(text[-n:]) for stop in stops)), default=0)


def check(stops: list[str]) -> None:
    if "" in stops:
        raise ValueError("a stop string must not be empty")


class TextStream:
    """Turns decoded text that grows into pieces that are safe to show."""

    def __init__(self, stops: list[str] | None = None):
        self.stops, self.shown, self.stopped = stops or [], 0, False

    def push(self, text: str, *, last: bool = False) -> str:
        """The next piece, given all text decoded so far; `stopped` becomes true when a stop string was met."""
        kept, stop = cut_at_stop(text, self.stops)
        self.stopped = stop is not None
        if not (self.stopped or last):
            kept = kept.rstrip("\ufffd")                       # an unfinished character decodes to U+FFFD
            kept = kept[:len(kept) - held_back(kept, self.stops)]
        piece, self.shown = kept[self.shown:], max(self.shown, len(kept))
        return piece
