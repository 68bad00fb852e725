"""Which characters the bytes of a page or a file mean.

UTF-8 is tried first and strictly: bytes of another encoding almost never pass.  Then what a page says of itself, then
what `resiliparse` (or `charset-normalizer`) makes of the bytes; the decoder of the guess is strict too, so that text is
never made of errors.  Left out: mending text that was decoded wrongly before it reached us.
"""

import codecs
from collections.abc import Callable

try:
    from resiliparse.parse.encoding import detect_encoding as detect
except ImportError:
    try:
        from charset_normalizer import from_bytes

        def detect(content: bytes) -> str:
            best = from_bytes(content).best()
            return best.encoding if best else ""
    except ImportError:
        detect: Callable[[bytes], str] | None = None

SAMPLE = 1 << 17                    # bytes a guess is made from
BOMS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
WEB = {"iso-8859-1": "cp1252", "latin-1": "cp1252", "latin1": "cp1252", "ascii": "cp1252", "us-ascii": "cp1252",
       "gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932", "euc-kr": "cp949"}      # as browsers read them
UNLIKELY = {0xFFFD, *range(0x00, 0x09), *range(0x0E, 0x1B), *range(0x80, 0xA0)}    # controls that no text has


def decode(content: bytes, stated: str = "") -> tuple[str, str] | str:
    """The text of some bytes and the encoding it was in; a string alone says why they are not text."""
    for bom, name in BOMS.items():
        if content.startswith(bom):
            return strictly(content, name) or f"invalid {name.upper()}: after a byte-order mark"
    if found := strictly(content, "utf-8"):
        return found
    for name in (stated, detect(content[:SAMPLE]) if detect else ""):
        name = (name or "").strip().strip("\"'").lower()
        if (found := strictly(content, WEB.get(name, name))) and not UNLIKELY.intersection(map(ord, set(found[0]))):
            return found
    return "unknown encoding: neither UTF-8 nor what it seems to be" if detect else \
        "invalid UTF-8: other encodings are told apart with pip install 'bloomery[curate]'"


def strictly(content: bytes, encoding: str) -> tuple[str, str] | None:
    try:
        return content.decode(encoding), "utf-8" if encoding == "utf-8-sig" else encoding
    except (UnicodeError, LookupError):
        return None
