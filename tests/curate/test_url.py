"""Addresses are blocked by domain, page, letter sequence and words, each with its reason."""

import numpy as np
import pyarrow as pa
import pytest

from bloomery.core.errors import InputError
from bloomery.curate.step import batch_of
from bloomery.curate.url import Blocklist, Url, parts

LISTS = {"domains": "0.0.0.0 ads.example.com\n# a comment\nbad.org  # why\n*.worse.net\n",
         "pages": "https://www.fine.com/hidden/\n", "substrings": "click-bait\n", "hard": "casino\n",
         "soft": "poker\nbonus 0.5\nwin\n"}


@pytest.fixture
def blocklist(tmp_path):
    for name, text in LISTS.items():
        (tmp_path / f"{name}.txt").write_text(text)
    return Blocklist(Url(**{name: str(tmp_path / f"{name}.txt") for name in LISTS}))


def judged(step, *urls):
    batch = batch_of([]).from_pydict({"url": pa.array(urls, pa.string())})
    return step.examine(batch)


@pytest.mark.parametrize("url, reason", [
    ("https://ads.example.com/x", "blocked_domain"), ("http://example.com/x", None),
    ("https://a.b.bad.org:8080/", "blocked_domain"), ("https://notbad.org/", None), ("worse.net", "blocked_domain"),
    ("http://user@www.bad.org./x", "blocked_domain"), ("BAD.ORG/Path", "blocked_domain"),
    ("http://fine.com/hidden#part", "blocked_page"), ("http://fine.com/hidden/too", None),
    ("http://x.com/Click.bait.html", "blocked_substring"), ("http://x.com/casino/1", "blocked_words"),
    ("http://x.com/casinos", None), ("http://x.com/poker", None), ("http://x.com/poker-win", "blocked_words"),
    ("http://x.com/poker_bonus", None), ("http://x.com/poker?bonus=bonus", "blocked_words"), ("", None), (None, None),
    ("http://[::1]:80/x", None), ("::::", None)])
def test_an_address_is_blocked_for_a_reason(blocklist, url, reason):
    assert judged(blocklist, url).reasons == [reason]


def test_scores_are_a_column_and_no_address_is_no_score(blocklist):
    found = judged(blocklist, "http://x.com/poker-bonus", "http://x.com/casino-poker", "", None)
    assert found.columns["url_score"][:2].tolist() == [1.5, 3.0] and np.isnan(found.columns["url_score"][2:]).all()
    without = blocklist.examine(batch_of([]).from_pydict({"text": pa.array(["a", "b"])}))
    assert without.reasons == [None, None] and np.isnan(without.columns["url_score"]).all()


def test_without_lists_nothing_is_blocked():
    assert judged(Blocklist(Url()), "http://casino.com/x").reasons == [None]


def test_host_and_path():
    assert parts("https://www.a.de:80/b?c#d") == ("a.de", "/b?c") and parts("a.de") == ("a.de", "")


def test_a_list_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(InputError, match="blocklist"):
        Blocklist(Url(domains=str(tmp_path / "none.txt")))
