"""One sentence about a library object, taken from its documentation: the first that says what it does.

Signatures that head the documentation of C functions, markup and line breaks are taken off.  What is not a sentence of
its own (too short, a list that follows, a pointer elsewhere) gives no description, with the reason.
"""

import re

SHORTEST, LONGEST = 20, 200

SIGNATURE = re.compile(r"\A[\w.\[\]]+\([^\n]*\)?[^\n]*(?:\n\s*->[^\n]*)?\n\s*", re.ASCII)
RESULT = r"(?:\([^)]*\)|\[[^\]]*\]|[^,.\n(\[]*?)"
INLINE = re.compile(rf"\A[\w.\[\]]+\(.*?\)\s*(?:->\s*{RESULT}\s*(?:--|,|\.|:)|--|:|=>)\s+(?=\w)", re.DOTALL)
SENTENCE = re.compile(r"(.+?[.!?])"                         # not after an abbreviation or an initial
                      r"(?<!e\.g\.)(?<!i\.e\.)(?<!etc\.)(?<!cf\.)(?<!vs\.)(?<!\s[A-Z]\.)(?=\s+\W?[A-Z0-9]|\s*\Z)")
ROLE = re.compile(r":\w+:`~?([^`]*)`")
OLD_QUOTES = re.compile(r"`(\w[\w.]*)'")
EMPHASIS = re.compile(r"(?<![\w*])\*{1,2}(\w+)\*{1,2}(?![\w*])")
POINTER = re.compile(r"(?:See|Same as|Like|Just like|Alias|Inherit|Overrid|Note|Error \d|This (?:method|function) is"
                     r"|Deprecated|Undocumented|Internal|For internal|Helper|Base class|\(?[Aa]bstract|Called by)\b")


def describe(doc: str) -> tuple[str, str]:
    """(description, "") or ("", reason why there is none)."""
    if not doc.strip():
        return "", "no documentation"
    text = ROLE.sub(r"`\1`", without_signature(doc.strip()))
    text = OLD_QUOTES.sub(r"`\1`", text)
    paragraph = " ".join(re.split(r"\n\s*\n|\n(?=\s*[-*:>|]|\s{2,})", text, maxsplit=1)[0].split())
    paragraph = EMPHASIS.sub(r"\1", paragraph.replace("``", "`").replace("\\", ""))
    found = SENTENCE.match(paragraph)
    sentence = found[1] if found else paragraph + "."
    sentence = sentence[:1].upper() + sentence[1:]
    return (sentence, "") if not (reason := flaw(sentence)) else ("", reason)


def without_signature(doc: str) -> str:
    """The documentation after `name(arguments) -> result`, on lines of its own or before the sentence."""
    if inline := INLINE.match(doc):
        return doc[inline.end():]
    while headed := SIGNATURE.match(doc):
        doc = doc[headed.end():]
    return doc


def flaw(sentence: str) -> str | None:
    """Why a sentence is no description, or None."""
    if not SHORTEST <= len(sentence) <= LONGEST:
        return "too short" if len(sentence) < SHORTEST else "too long"
    if not re.match(r"[A-Z][a-z]*[ ,'-]", sentence) or len(sentence.split()) < 4:
        return "not a sentence"
    if POINTER.match(sentence):
        return "points elsewhere"
    if re.search(r":\.|[,;(-]\.\Z|\.\.|->|>>>|=>|\|| -- |::|@|<\w+>|\*\(", sentence):
        return "not plain prose"
    if sentence.count("`") % 2 or sentence.count('"') % 2 or sentence.count("(") > sentence.count(")"):
        return "cut by markup"
    return None
