"""Personal data is found by form and arithmetic, replaced by its kind, and a text full of it is dropped."""

import random
import string
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bloomery.core.records import Document
from bloomery.curate.edits import apply
from bloomery.curate.pii import KINDS, Pii, Replace, luhn, personal
from bloomery.curate.step import batch_of

FOUND = {
    "email": ["a@b.com", "john.o'neil+spam@mail.example.co.uk", "x@[10.0.0.1]", "m_1@b.de"],
    "ipv4": ["8.8.8.8", "195.234.74.142"],
    "ipv6": ["2001:4860:4860::8888", "2001:4860:4860:0:0:0:0:8844"],
    "phone": ["+49 (30) 1234-5678", "+14155552671", "(415) 555-2671", "415-555-2671", "1-800-335-4824", "415.555.2671"],
    "iban": ["DE89 3704 0044 0532 0130 00", "GB82WEST12345698765432", "NO9386011117947"],
    "card": ["4111 1111 1111 1111", "378282246310005", "5555-5555-5555-4444", "6011111111111117", "30569309025904"],
    "ssn": ["078-05-1120"], "mac": ["00:1A:2B:3C:4D:5E", "00-1a-2b-3c-4d-5f"],
    "aws_key": ["AKIAIOSFODNN7EXAMPLE", "aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"],
    "github_key": ["ghp_" + "a1" * 18, "github_pat_" + "A_1" * 10],
    "private_key": ["-----BEGIN RSA PRIVATE KEY-----\nMIIabc/+=\n-----END RSA PRIVATE KEY-----"]}
NOTHING = [
    "a@b", "@handle", "a @ b.com", "reload@theRegister", "1.2.3.4.5", "version 1.2.3", "256.1.1.1", "192.168.0.1",
    "127.0.0.1", "::1", "std::vector", "a::b", "10:20:30", "2019-01-02", "1990-1995", "1,234,567", "3.14159265358979",
    "ISBN 978-3-16-148410-0", "doi 10.1000/182", "order #415-555-2671", "4111 1111 1111 1112", "1234567812345670",
    "DE89 3704 0044 0532 0130 01", "DE8937040044053201300", "666-12-1234", "000-12-1234", "123-00-1234", "123-45-0000",
    "923-45-1234", "00:1A:2B:3C:4D", "AKIAshort", "ghp_tooshort", "115-555-2671", "12-34 of 56-78", "$415 555 2671"]


@pytest.mark.parametrize("kind, text", [(kind, text) for kind, texts in FOUND.items() for text in texts])
@pytest.mark.parametrize("around", ["{}", "write to {}, or not", "({}).", "é {}\n"])
def test_each_kind_is_found_whole(kind, text, around):
    inside = around.format(text)
    spans = personal(inside)
    assert [(name, inside[start:stop]) for name, start, stop in spans] == [(kind, text)]


@pytest.mark.parametrize("text", NOTHING)
def test_what_only_looks_like_it_is_left_alone(text):
    assert personal(f"see {text} there") == []


def test_numbers_without_a_form_need_a_word_that_says_phone():
    assert [kind for kind, *_ in personal("call 030 123456, or tel: 555 0199 22")] == ["phone", "phone"]
    assert personal("there were 030 123456 of them") == []


def test_private_addresses_only_when_asked_for():
    assert personal("at 192.168.0.1") == [] and len(personal("at 192.168.0.1", private_ips=True)) == 1


def test_a_document_is_edited_in_bytes_and_dropped_with_too_many():
    texts = ["Grüße an jörg, büro@firma.de und 8.8.8.8 🙂!", "nothing here", " ".join(f"p{i}@x.org" for i in range(6))]
    batch = batch_of([Document(str(i), text) for i, text in enumerate(texts)])
    found = Replace(Pii()).examine(batch)
    assert found.reasons == [None, None, "personal_data"] and found.columns["personal_data"].tolist() == [2, 0, 6]
    edited = apply(batch, found.edits).column("text").to_pylist()
    assert edited[:2] == ["Grüße an jörg, |||EMAIL||| und |||IPV4||| 🙂!", texts[1]]
    assert edited[2] == " ".join(["|||EMAIL|||"] * 6)
    assert Replace(Pii(most=None)).examine(batch).reasons == [None] * 3
    assert Replace(Pii(kinds=("ipv4",))).examine(batch).columns["personal_data"].tolist() == [1, 0, 0]


def test_luhn_by_hand():
    assert luhn("79927398713") and not any(luhn(f"7992739871{digit}") for digit in "012456789")


@given(st.text(alphabet="@.-:+() 0123456789aAfzZ_\n", max_size=200))
def test_finds_lie_apart_and_are_their_kind(text):
    spans = personal(text, private_ips=True)
    assert all(a[2] <= b[1] for a, b in zip(spans, spans[1:]))
    assert all(kind in KINDS and text[start:stop].strip() == text[start:stop] for kind, start, stop in spans)


def test_no_text_holds_the_patterns_up():
    """Work grows with length and no faster: 16 times the text takes far less than 16^2 the time."""
    for hard in ("a." * 60, "1" * 120, "1 " * 60, "@" * 120, "a@" * 60, ":" * 120, "0:" * 60, "DE89" * 30, "+1-" * 40,
                 "(1)" * 40, "-----BEGIN PRIVATE KEY-----"):
        took = []
        for times in (4, 64):
            start = time.process_time()
            personal(hard * times)
            took.append(time.process_time() - start)
        assert took[1] < 100 * max(took[0], 1e-3), hard


def planted(kind: str, generator: random.Random) -> str:
    """A made-up one."""
    digits = lambda n: "".join(generator.choices(string.digits, k=n))  # noqa: E731
    if kind == "card":
        stem = "4" + digits(14)
        return next(stem + last for last in string.digits if luhn(stem + last))
    if kind == "iban":
        rest = digits(18)
        return f"DE{98 - int(f'{rest}131400') % 97:02d}{rest}"
    byte = lambda: generator.randrange(256)  # noqa: E731
    return {"email": f"{generator.choice('abcdef')}{digits(3)}@mail{digits(2)}.org", "ipv4": f"8.{byte()}.4.{byte()}",
            "ssn": f"1{digits(2)}-12-3{digits(3)}", "phone": f"(212) 5{digits(2)}-{digits(4)}",
            "mac": ":".join(f"{byte():02x}" for _ in range(6))}[kind]


def test_all_that_is_planted_is_found():
    generator = random.Random(0)
    for kind in ("card", "iban", "email", "ssn", "phone", "ipv4", "mac"):
        for _ in range(100):
            one = planted(kind, generator)
            assert personal(f"it says {one} there") == [(kind, 8, 8 + len(one))], one
