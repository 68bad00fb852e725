"""Words as English is tokenized: against what spaCy 3.8's English gives for each of these."""

import pytest

from bloomery.curate.characters import classes
from bloomery.curate.words import english

SPLIT = """
    river | river
    (river), | ( river ) ,
    "What?!" | " What ? ! "
    it's | it 's
    don't, | do n't ,
    We're | We 're
    you’ll. | you ’ll .
    I'd | I 'd
    well-known | well - known
    2-fold | 2 - fold
    1990-1995 | 1990 - 1995
    and/orange | and / orange
    one,two | one , two
    3,000 | 3,000
    end.The | end . The
    end.the | end.the
    U.S. | U.S.
    J. | J.
    e. | e.
    NATO. | NATO .
    3.14. | 3.14 .
    wait... | wait ...
    ...so | ... so
    so...and | so ... and
    yes—no | yes — no
    a--b | a -- b
    $5.00 | $ 5.00
    50% | 50 %
    http://a.org/b?c=d, | http://a.org/b?c=d ,
    www.example.com | www.example.com
    me@example.com. | me@example.com .
    it,s:ok | it , s : ok
    “quoted” | “ quoted ”
    [1] | [ 1 ]
    #tag | # tag
    @you | @you
    C# | C #
    語文。 | 語文 。
    +5 | +5
    +x | + x
    – | –
"""
CASES = [line.strip().split(" | ") for line in SPLIT.strip().splitlines()]


@pytest.mark.parametrize(("chunk", "words"), CASES)
def test_words_of_english(chunk, words):
    assert english(chunk, classes()) == words.split(" ")


def test_nothing_is_lost():
    for chunk in ("'", "''", "...", "(((", "n't", "'s", "-", "a.", "://", "x@", "1:", ".com", "’", "''''s"):
        assert "".join(english(chunk, classes())) == chunk
