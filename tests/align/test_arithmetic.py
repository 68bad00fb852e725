"""Numbers as fractions and expressions by a grammar: equal is equal however it is written, and nothing runs away."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bloomery.align.arithmetic import NoExpression, Parser, equal_expressions, equal_numbers, last_number, value


@pytest.mark.parametrize(("text", "number"), [
    ("1,250", 1250), ("1250.0", 1250), (r"1{,}250", 1250), ("$1,250.00", 1250), ("3/4", Fraction(3, 4)),
    (r"\frac{3}{4}", Fraction(3, 4)), (r"\dfrac12", Fraction(1, 2)), ("1 1/2 cups", Fraction(3, 2)), ("−5", -5),
    ("1.5e3", 1500), (r"2 \times 10^{3}", 2000), ("10:30", 30), ("3-5", 5), ("-3/4", Fraction(-3, 4)), (".5", 0.5),
    ("12,5", 5), ("1/0", 1), ("v2.0.1 is 7", 7),
])
def test_the_last_number_is_read_exactly(text, number):
    assert last_number(text) == (number, False)


def test_a_percentage_is_its_hundredth_or_its_bare_number():
    def equal(a, b):
        return equal_numbers(last_number(a), last_number(b))

    assert equal("50%", "0.5") and equal("50", "50%") and equal("1/2", "50%") and not equal("5000%", "50%")
    assert last_number("none at all") is None


@pytest.mark.parametrize(("ours", "theirs"), [
    ("2(x+1)", "2x+2"), (r"\frac{1}{2}", "0.5"), (r"\sqrt{8}", r"2\sqrt{2}"), ("x=5", "5"), ("(1,2)", "( 1, 2 )"),
    (r"\{2,1\}", r"\{1,2\}"), ("1, 2", "2,1"), (r"50\%", "1/2"), (r"\sin^2 x+\cos^2 x", "1"), ("x^2-1", "(x-1)(x+1)"),
    (r"e^{i\pi}", "-1"), (r"\log_2 8", "3"), ("10!", "3628800"), ("x^{-1}", "1/x"), ("a/b/c", "a/(bc)"),
    (r"\sqrt[3]{27}", "3"), (r"90^\circ", "90"), (r"5\text{ cm}", "5"), (r"\frac{\sqrt{3}}{3}", r"1/\sqrt{3}"),
    (r"\left(\frac{1}{2}, 3\right)", "(0.5,3)"), ("|x|^2", "x^2"), ("2**3", "8"), ("-2^2", "-4"), ("2^3^2", "512"),
    ("1,250", "1250"), ("(a+b)^3", "a^3+3a^2b+3ab^2+b^3"),
])
def test_expressions_that_are_equal(ours, theirs):
    assert equal_expressions(ours, theirs) and equal_expressions(theirs, ours)


@pytest.mark.parametrize(("ours", "theirs"), [
    ("(2,1)", "(1,2)"), ("[0,1)", "(0,1)"), ("-x^2", "(-x)^2"), ("0.333", "1/3"), (r"\pi", "3.14159"), ("x+1", "x+2"),
    ("1/x", "1/(x+0)^2"), ("x", "y"), ("1", "1,2"), ("{1,1}", "{1,2}"),
])
def test_expressions_that_are_not(ours, theirs):
    assert equal_expressions(ours, theirs) is False


@pytest.mark.parametrize("text", ["", "(((", "2 +", "@", "x" * 2000, "(" * 500 + "1" + ")" * 500, "^" * 90, "a__b"])
def test_what_is_no_expression_is_told_apart_from_a_wrong_one(text):
    assert equal_expressions(text, "1") is None


@pytest.mark.parametrize("text", ["9^{9^{9^9}}", "(10^200)!", "9^9^9^9^9^9", "1" * 900 + "^256", "100!^256^256"])
def test_no_power_takes_long(text):
    assert not equal_expressions(text, "1")


TREES = st.recursive(st.integers(0, 9).map(str), lambda inner: st.tuples(
    st.sampled_from(["+", "-", "*", "/"]), inner, inner).map(lambda part: f"({part[1]}{part[0]}{part[2]})"),
    max_leaves=12)


@given(TREES)
def test_arithmetic_is_pythons(text):
    python = "".join(f"Fraction({sign})" if sign.isdigit() else sign for sign in text)
    try:
        wanted = eval(python, {"Fraction": Fraction})
    except ZeroDivisionError:
        with pytest.raises(ZeroDivisionError):
            value(Parser(text).whole(), {})
    else:
        assert value(Parser(text).whole(), {}) == wanted


@given(st.text(max_size=30))
def test_any_text_is_read_or_refused(text):
    try:
        Parser(text).whole()
        read = True
    except NoExpression:
        read = False
    assert equal_expressions(text, text) in ((True, False) if read else (True, False, None))
