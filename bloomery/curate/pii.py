"""Personal data becomes a placeholder that says what stood there: an e-mail address, a card, a key.

Every kind is found the same way.  An anchor that is cheap to look for (an `@`, `AKIA`, a point between digits) says
where one may stand; a pattern with bounded quantifiers, so that no text can hold it up, says what stands around it; and
a check with the kind's own arithmetic says whether it is one: Luhn for cards (ISO/IEC 7812-1), mod 97 for IBANs (ISO
13616), the numbers never given out for US social security, addresses that reach somebody for IPs.

A document with more than `most` finds is a list of people rather than a text, and is dropped (Dolma: more than 5).
What has no form of its own (names, places, sums of money) is no pattern's business and is left alone.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from math import inf
from typing import Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from bloomery.core.config import Settings
from bloomery.curate.edits import Edits, in_bytes
from bloomery.curate.step import Findings

KindName = Literal["email", "ipv4", "ipv6", "phone", "iban", "card", "ssn", "mac", "aws_key", "github_key",
                   "private_key"]
class Pii(Settings):
    """What is looked for, and when a document has too much of it."""

    kinds: tuple[KindName, ...] = Field((), description="what is replaced; none named: every kind")
    most: int | None = Field(5, ge=0, description="finds beyond which a document is dropped; none drops nothing")
    placeholder: str = Field("|||{kind}|||", description="what stands in place of a find")
    private_ips: bool = Field(False, description="whether addresses that reach nobody (192.168.0.1) are replaced too")


@dataclass(frozen=True)
class Kind:
    """One kind of personal data: a find covers an anchor, which lies at most `before` characters behind its start."""

    anchor: re.Pattern
    pattern: re.Pattern
    valid: Callable[[re.Match], bool] = lambda found: True
    before: int = 0
    after: int = 80

    def finds(self, text: str) -> Iterator[tuple[int, int]]:
        """Where there is one: first character and the one behind the last."""
        behind = 0
        for anchor in self.anchor.finditer(text):
            place = anchor.start()
            if place < behind:
                continue
            for start in range(max(behind, place - self.before), place + 1):
                found = self.pattern.match(text, start, place + self.after)
                if found and found.end() > place and self.valid(found):
                    behind = found.end()
                    yield found.span()
                    break


class Replace:
    """The step that replaces what it finds, and drops documents with too much of it."""

    def __init__(self, options: Pii):
        self.options = options
        self.kinds = {name: KINDS[name] for name in options.kinds or KINDS}

    def examine(self, batch: pa.RecordBatch) -> Findings:
        reasons, counts, spans, stand_ins = [], [], [], []
        most = inf if self.options.most is None else self.options.most
        for row, text in enumerate(batch.column("text").to_pylist()):
            found = spans_of(text, self.kinds, private=self.options.private_ips)
            counts.append(len(found))
            reasons.append("personal_data" if len(found) > most else None)
            spans += [(row, *span) for span in in_bytes(text, [span for _, *span in found])]
            stand_ins += [self.options.placeholder.format(kind=kind.upper()) for kind, *_ in found]
        edits = Edits(*np.array(spans, np.int64).reshape(-1, 3).T, stand_ins)
        return Findings(reasons, {"personal_data": np.array(counts, np.int64)}, edits, marks=edits)


Span = tuple[str, int, int]                                 # kind, first and behind the last character


def personal(text: str, kinds: tuple[KindName, ...] = (), *, private_ips: bool = False) -> list[Span]:
    """Every find in a text, by place, none overlapping another: of two the one that begins first, then the longer."""
    return spans_of(text, {name: KINDS[name] for name in kinds or KINDS}, private=private_ips)


def spans_of(text: str, kinds: dict[str, Kind], *, private: bool = False) -> list[Span]:
    found = [(name, *span) for name, kind in kinds.items() for span in kind.finds(text)
             if private or name not in ADDRESSES or ip_address(text[slice(*span)]).is_global]
    chosen: list[Span] = []
    for span in sorted(found, key=lambda span: (span[1], -span[2])):
        if not chosen or span[1] >= chosen[-1][2]:
            chosen.append(span)
    return chosen


# --- what makes a find one ----------------------------------------------------------------------------------------

def luhn(digits: str) -> bool:
    """Whether the last digit checks the others: every second from the right doubled, nines cast out, sum mod 10."""
    values = [int(digit) for digit in reversed(digits)]
    return sum(values[::2] + [value * 2 - 9 * (value > 4) for value in values[1::2]]) % 10 == 0


def is_card(found: re.Match) -> bool:
    digits = re.sub(r"\D", "", found[0])
    return bool(ISSUED.fullmatch(digits)) and luhn(digits)


def is_iban(found: re.Match) -> bool:
    """Country and check digits behind the rest, letters as 10 to 35, leave 1 when divided by 97."""
    plain = found[0].replace(" ", "")
    return len(plain) == IBAN_LENGTHS.get(plain[:2]) and \
        int("".join(str(int(one, 36)) for one in plain[4:] + plain[:4])) % 97 == 1


def is_ssn(found: re.Match) -> bool:
    """No area 000, 666 or 9xx, no group 00, no serial 0000 was ever given out (SSA, POMS RM 10201.030)."""
    area, group, serial = found[0].split("-")
    return area not in ("000", "666") and area < "900" and group != "00" and serial != "0000"


def is_ipv6(found: re.Match) -> bool:
    """What the standard library reads as one and holds a digit: `a::b` is a name in a program."""
    try:
        ip_address(found[0])
    except ValueError:
        return False
    return any(map(str.isdigit, found[0]))


def is_phone(found: re.Match) -> bool:
    """7 to 15 digits (ITU-T E.164); those without a form of their own only behind a word that says phone."""
    before = found.string[max(0, found.start() - CONTEXT):found.start()]
    digits = sum(map(str.isdigit, found[0]))
    return 7 <= digits <= 15 and not OTHER_NUMBER.search(before) and \
        (found.lastgroup != "plain" or bool(CALLED.search(before)))


CONTEXT = 24                                                # characters before a number that say what it numbers
CALLED = re.compile(r"\b(?:tel|phone|telephone|mobile|cell|fax|call|whatsapp|dial)\w{0,3}\W{0,8}(?:no|number|us|at)?"
                    r"\W{0,4}$", re.IGNORECASE)
OTHER_NUMBER = re.compile(r"(?:isbn|issn|doi|order|invoice|serial|version|#|\$|€|£)[^\n]{0,12}$", re.IGNORECASE)
ISSUED = re.compile(         # Visa, Mastercard, American Express, Discover and UnionPay, Diners, JCB
    r"4(?:\d{12}|\d{15}|\d{18})|(?:5[1-5]\d\d|222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)\d{12}|3[47]\d{13}"
    r"|(?:6011|64[4-9]\d|65\d\d|62\d\d)\d{12,15}|3(?:0[0-5]|[689]\d)\d{11}|35(?:2[89]|[3-8]\d)\d{12}")
IBAN_LENGTHS = {country: int(length) for country, length in re.findall(r"([A-Z]{2})(\d\d)", """
    AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DK18 DO28 EE20 EG29 ES24 FI18
    FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 LB28 LC32 LI21 LT20
    LU20 LV21 LY25 MC27 MD24 ME22 MK19 MR27 MT31 MU30 NL18 NO15 PK24 PL28 PS29 PT25 QA29 RO24 RS22 SA24 SC31 SE24
    SI19 SK24 SM27 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20""")}


# --- what each kind looks like -------------------------------------------------------------------------------------

ADDRESSES = ("ipv4", "ipv6")
ATOM = r"[\w!#$%&'*+/=?^`{|}~-]"                          # RFC 5322, section 3.2.3, and letters of RFC 6532
LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"    # RFC 1123, section 2.1
OCTET = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
HEX, PAIR = "[0-9A-Fa-f]", "[0-9A-Fa-f]{2}"
IPV4 = rf"(?:{OCTET}\.){{3}}{OCTET}"

KINDS: dict[str, Kind] = {
    "email": Kind(re.compile(r"@(?=[A-Za-z0-9[])"), re.compile(
        rf"(?<![\w.@])(?=\w)(?:{ATOM}{{1,64}}\.){{0,6}}{ATOM}{{1,64}}@(?:(?:{LABEL}\.){{1,8}}[A-Za-z]{{2,24}}(?![\w@])|"
        rf"\[{IPV4}\])"), before=64, after=260),
    "ipv4": Kind(re.compile(r"\.(?=\d{1,3}\.\d)"), re.compile(rf"(?<![\w.]){IPV4}(?!\.?\w)"), before=3),
    "ipv6": Kind(re.compile(rf":(?={HEX}{{0,4}}:)"), re.compile(
        rf"(?<![\w:.])(?:{HEX}{{1,4}}:|:){{1,7}}(?::|(?::?{HEX}{{1,4}}){{1,7}})(?![\w:.]\w)"), is_ipv6, before=5),
    "phone": Kind(re.compile(r"[+(0-9](?<![\w.].)(?=(?:[ ().-]{0,2}[0-9]){6})"), re.compile(
        r"(?<![\w.+-])(?<!\d[,/:])(?:(?P<international>\+\d{1,3}(?:[ .-]?(?:\(\d{1,4}\)|\d{1,4})){2,6})"
        r"|(?P<american>(?:1[ .-])?(?:\([2-9]\d\d\) ?|[2-9]\d\d[ .-])[2-9]\d\d[ .-]\d{4})"
        r"|(?P<plain>\(?\d{2,5}\)?(?:[ .-]?\d{2,5}){1,4}))(?![\w-]|[.,]\d)"), is_phone),
    "iban": Kind(re.compile(r"[A-Z][A-Z][0-9][0-9](?= ?[A-Z0-9]{3})"), re.compile(
        r"(?<!\w)[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?!\w)"), is_iban),
    "card": Kind(re.compile(r"[2-6][0-9]{3}(?=[ -]?[0-9])"), re.compile(
        r"(?<![\w.-])\d(?:[ -]?\d){12,18}(?![\w-]|\.\d)"), is_card),
    "ssn": Kind(re.compile(r"-(?=\d\d-\d{4})"), re.compile(r"(?<![\w-])\d{3}-\d\d-\d{4}(?![\w-])"), is_ssn, before=3),
    "mac": Kind(re.compile(rf"[:-](?={PAIR}[:-]{PAIR}[:-])"), re.compile(
        rf"(?<![\w:-]){PAIR}(?:(?::{PAIR}){{5}}|(?:-{PAIR}){{5}})(?![\w:-])"), before=2),
    "aws_key": Kind(re.compile("AKIA|ASIA|aws_secret"), re.compile(
        r"(?<!\w)(?:(?:AKIA|ASIA)[A-Z2-7]{16}(?!\w)|aws_secret_access_key\W{1,5}[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+]))")),
    "github_key": Kind(re.compile("gh[pousr]_|github_pat_"), re.compile(
        r"(?<!\w)(?:gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_\w{22,255})(?!\w)"), after=280),
    "private_key": Kind(re.compile("-----BEGIN "), re.compile(
        r"-----BEGIN (?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----[^-]{1,16384}-----END [A-Z0-9 ]{1,40}-----"),
        after=16_600),
}
