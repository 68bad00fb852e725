"""What kind of character each code point is: sets of bits in a table, looked up by compiled and by plain code alike.

The table is made at first use from the Unicode database of the interpreter (40 ms, 2 MB).  Three sets are no property
of Unicode: `SYMBOLS` is CCNet's list of punctuation (Wenzek et al. 2020), which datatrove's Gopher rules count by;
`TERMINAL` are the sentence-terminal characters with which FineWeb's lines end; QUOTE, BEFORE and AFTER are where a
tokenizer of English breaks a word (`words.py`).
"""

from functools import cache
from unicodedata import category

import numpy as np

SPACE, BREAK, LETTER, UPPER, LOWER, DIGIT, SYMBOL, TERMINAL, MARK, QUOTE, BEFORE, AFTER, COUNTED = (
    1 << n for n in range(13))

BREAKS = "\n\v\f\r\x1c\x1d\x1e\x85\u2028\u2029"                 # where str.splitlines splits
SYMBOLS = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~«´»–—’“”„…∶━►、。〈〉《》「」【】！％（），．１：；？～"
TERMINALS = """21 2E 3F 589 61D-61F 6D4 700-702 7F9 837 839 83D-83E 964-965 104A-104B 1362 1367-1368 166E 1735-1736
    17D4-17D6 17D9-17DA 1803 1809 1944-1945 1AA8-1AAB 1B5A-1B5B 1B5E-1B5F 1B7D-1B7E 1C3B-1C3C 1C7E-1C7F 203C-203D
    2047-2049 2E2E 2E3C 2E53-2E54 3002 A4FF A60E-A60F A6F3 A6F7 A876-A877 A8CE-A8CF A92F A9C8-A9C9 AA5D-AA5F AAF0-AAF1
    ABEB FE52 FE56-FE57 FF01 FF0E FF1F FF61 10A56-10A57 10F55-10F59 10F86-10F89 11047-11048 110BE-110C1 11141-11143
    111C5-111C6 111CD 111DE-111DF 11238-11239 1123B-1123C 112A9 1144B-1144C 115C2-115C3 115C9-115D7 11641-11642
    1173C-1173E 11944 11946 11A42-11A43 11A9B-11A9C 11C41-11C42 11EF7-11EF8 11F43-11F44 16A6E-16A6F 16AF5 16B37-16B38
    16B44 16E98 1BC9F 1DA88"""
MARKS = "#…"                                                    # Dolma's symbols
QUOTES = "'\"”“`‘´’‚,„»«「」『』（）〔〕【】《》〈〉\u2329\u232a⟦⟧"
PUNCTUATION = "…,:;!?¿؟¡()[]{}<>_#*&。？！，、；：～·।،۔؛٪"
ICONS = (*range(0xA6, 0xB1), *range(0x2100, 0x2C00), *range(0x1F000, 0x1FB00))     # where other symbols are looked for
CURRENCY = "$£€¥฿₽﷼₴₠₡₢₣₤₥₦₧₨₩₪₫₭₮₯₰₱₲₳₵₶₷₸₹₺₻₼₾₿"


@cache
def classes() -> np.ndarray:
    """The kinds of every code point, (0x110000,) uint16; read-only, for threads share it."""
    points = np.arange(0x110000, dtype=np.uint32)
    characters = points.view("U1")
    table = np.zeros(len(points), np.uint16)
    for bit, holds in {SPACE: np.char.isspace, LETTER: np.char.isalpha, UPPER: np.char.isupper, LOWER: np.char.islower,
                       DIGIT: np.char.isdigit}.items():
        table[holds(characters)] |= bit
    controls = "".join(map(chr, (*range(9), 11, 12, *range(13, 32), *range(127, 160))))
    terminals = "".join(chr(point) for point in ranges(TERMINALS))
    icons = "".join(chr(point) for point in ICONS if category(chr(point)) == "So")
    for bit, members in {BREAK: BREAKS, SYMBOL: SYMBOLS + controls + terminals, TERMINAL: terminals, MARK: MARKS,
                         QUOTE: QUOTES, BEFORE: PUNCTUATION + QUOTES + icons + CURRENCY + "§%=—–",
                         AFTER: PUNCTUATION + QUOTES + icons + "—–", COUNTED: ".#…0123456789"}.items():
        table[np.unique([ord(character) for character in members])] |= bit
    table.flags.writeable = False
    return table


def ranges(text: str) -> list[int]:
    """Code points from "21 589 61D-61F"."""
    bounds = [[int(end, 16) for end in part.split("-")] for part in text.split()]
    return [point for bound in bounds for point in range(bound[0], bound[-1] + 1)]
