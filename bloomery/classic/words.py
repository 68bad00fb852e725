"""Text as words and sentences, for what counts words.  Tokens of a language model are another matter: `text/tokenizer`.

A word is a run of letters, digits and underscores in lower case.  Left out: scripts without spaces, whose runs stay
whole, and stemming beyond the English plural.
"""

import re
from collections.abc import Callable, Iterable

WORD = re.compile(r"\w+")
STOP = re.compile(r"[.!?…]+[\"'”’)\]]*(?=\s+(\S?))|[。！？]+[”’」』]?|\n\s*\n")       # where a sentence may end
ABBREVIATIONS = frozenset(["mr", "mrs", "ms", "dr", "prof", "st", "vs", "etc", "al", "fig", "eq", "inc", "ltd",
                           "co", "corp", "jr", "sr", "gen", "col", "capt", "lt", "rev", "hon", "approx", "dept"])
LONGEST = max(map(len, ABBREVIATIONS)) + 1
# English function words by class, and what `WORD` leaves of contractions.
FUNCTION_WORDS = """
    a an the this that these those each every either neither some any no all both half several such another other
    i me my mine myself we us our ours ourselves you your yours yourself yourselves he him his himself she her hers
    herself it its itself they them their theirs themselves one ones who whom whose which what whoever whatever
    someone something anyone anything everyone everything nobody nothing
    about above across after against along among around as at before behind below beneath beside besides between beyond
    by down during except for from in inside into like near of off on onto out outside over past per since than through
    throughout to toward towards under until up upon via with within without
    and but or nor so yet if because although though while whereas unless whether when whenever where wherever
    am is are was were be been being have has had having do does did doing done
    can could may might must shall should will would ought cannot
    not very too also just only even still again ever never always often then there here now thus hence therefore
    however how why more most less least much many few own same quite rather
    d ll m re s t ve don doesn didn isn aren wasn weren hasn haven hadn won wouldn couldn shouldn
"""
STOP_WORDS = frozenset(FUNCTION_WORDS.split())


def words(text: str) -> list[str]:
    """The words of a text in order, in lower case."""
    return WORD.findall(text.lower())


def sentences(text: str) -> list[str]:
    """The sentences of a text as they stand in it, without the space around them."""
    return [" ".join(text[start:stop].split()) for start, stop in sentence_spans(text)]


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Where sentences begin and end; spans with no word are left out.

    One ends at a full stop, an exclamation or a question mark, or before an empty line; not after an abbreviation or
    an initial, nor where a small letter follows, unless a space stands before the mark as in tokenised texts.
    """
    found, start = [], 0
    for mark in STOP.finditer(text):
        before = text[max(start, mark.start() - LONGEST):mark.start()]
        last = re.search(r"\w*$", before)[0]
        if mark[0] == "." and (last.lower() in ABBREVIATIONS or len(last) == 1 and last.isupper()):
            continue
        if (mark[1] or "").islower() and not before[-1:].isspace():
            continue
        found.append((start, mark.end()))
        start = mark.end()
    return [(start, stop) for start, stop in [*found, (start, len(text))] if WORD.search(text, start, stop)]


def singular(word: str) -> str:
    """The word without an English plural: Harman 1991, "How effective is suffixing?", the S stemmer."""
    if word.endswith("ies") and not word.endswith(("eies", "aies")):
        return word[:-3] + "y"
    if word.endswith("es") and not word.endswith(("aes", "ees", "oes")):
        return word[:-1]
    if word.endswith("s") and not word.endswith(("us", "ss")) and len(word) > 1:
        return word[:-1]
    return word


def terms(text: str, *, stop: Iterable[str] = STOP_WORDS, stem: Callable[[str], str] | None = singular) -> list[str]:
    """What a text is found by: its words without stop words, each as its stem."""
    kept = [word for word in words(text) if word not in stop]
    return [stem(word) for word in kept] if stem else kept
