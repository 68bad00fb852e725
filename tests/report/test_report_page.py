"""The report in a browser that is offline: nothing is asked for, nothing breaks, nothing sticks out."""

from pathlib import Path

import pytest

from bloomery.report.run import Config, run
from tests.browsing import WIDTHS, listen, needs_browser

pytestmark = needs_browser


@pytest.fixture(scope="module")
def address(whole_run, tmp_path_factory) -> str:
    out: Path = tmp_path_factory.mktemp("page")
    run(Config(runs=whole_run), out)
    return (out / "report.html").as_uri()


@pytest.fixture
def opened(browser, address):
    """A function that opens the page and, when the test is over, asserts that it kept quiet."""
    faults, pages = [], []

    def asked(request):
        if not request.url.startswith(("file:", "data:")):
            faults.append(request.url)

    def at(width: int, scheme: str = "light"):
        page = browser.new_page(viewport={"width": width, "height": WIDTHS[width]}, color_scheme=scheme)
        listen(page, faults)
        page.on("request", asked)
        page.goto(address)
        page.wait_for_function("document.querySelectorAll('.plot svg.main-svg').length > 0")
        pages.append(page)
        return page

    yield at
    for page in pages:
        page.close()
    assert faults == []


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_bars_anyone_from_it(opened, barriers, width, scheme):
    page = opened(width, scheme)
    assert barriers(page) == []
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    page.wait_for_timeout(200)
    assert barriers(page) == []


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_fits_and_keeps_quiet(opened, width, scheme):
    page = opened(width, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    page.wait_for_timeout(200)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate("[...document.querySelectorAll('.plot')].every(p => p.querySelector('svg.main-svg'))")
    assert page.evaluate("window.stolen") is None


def test_switches_redraw(opened):
    page = opened(1366)
    title = "document.querySelector('.plot .xtitle').textContent"
    assert page.evaluate(title) == "step"
    page.click("[data-switch=axis] [value=minutes]")
    assert page.evaluate(title) == "minutes at work"
    page.click("[data-switch=scale] [value=log]")
    assert page.evaluate("document.querySelector('.plot').layout.yaxis.type") == "log"
    page.click("[data-switch=unit] [value=bytes]")
    assert page.get_attribute(".waterfall", "data-unit") == "bytes"


def test_theme_changes_page_and_charts(opened):
    page = opened(1366)
    look = "[getComputedStyle(document.body).backgroundColor, document.querySelector('.plot').data[1].line.color]"
    light = page.evaluate(look)
    page.click("#theme")
    assert all(a != b for a, b in zip(light, page.evaluate(look), strict=True))
    page.click("#theme")
    assert page.evaluate(look) == light


def test_documents_are_filtered_and_searched(opened):
    page = opened(1366)
    shown = "document.querySelectorAll('#curation .document:not([hidden])').length"
    assert page.evaluate(shown) == 143
    page.select_option("[data-by=of]", index=1)
    assert page.evaluate(shown) == 20
    page.select_option("[data-by=of]", index=0)
    page.fill("[data-search]", "window.stolen")
    assert page.evaluate(shown) == 1
    assert page.inner_text(".browser output") == "1 of 143 shown"


def test_mistakes_are_filtered_by_what_is_true_and_what_was_said(opened):
    page = opened(1366)
    browser = page.locator("#tasks .browser").first
    shown = "[...document.querySelectorAll('#tasks .browser')][0].querySelectorAll('.mistake:not([hidden])').length"
    assert page.evaluate(shown) == 100 and browser.locator("output").inner_text() == "100 of 100 shown"
    kinds = [browser.locator(f"select[data-by={side}]") for side in ("truths", "said")]
    kinds[0].select_option(index=1)
    some = page.evaluate(shown)
    assert kinds[0].locator("option").nth(1).inner_text().endswith(f": {some}") and 0 < some < 100
    kinds[1].select_option(index=1)
    assert page.evaluate(shown) < some
    for kind in kinds:
        kind.select_option(index=0)
    browser.locator("input").fill("window.stolen")
    assert page.evaluate(shown) == 1


def test_without_a_script_mistakes_can_be_read_and_nothing_is_offered(browser, address):
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto(address)
    first = page.locator("#tasks .mistake").first
    first.locator("summary").click()
    assert first.locator("pre").is_visible() and not page.locator("#tasks .controls").first.is_visible()
    page.context.close()


def test_a_limit_is_moved_and_says_what_it_would_keep(opened):
    page = opened(1366)
    told, low = ".limits .told", page.locator(".limits .low input")
    assert page.eval_on_selector(".limits select", "s => s.value") == "heuristics.too_short"
    assert page.inner_text(told) == "5,274 documents are kept, as now."
    assert page.inner_text(".limits .low output") == "50" and page.inner_text(".limits .high output") == "no limit"
    low.focus()
    low.press("ArrowLeft")
    assert page.inner_text(told) == ("5,284 documents would be kept, 10 more (+0.1 % of all read). "
                                     "What comes back would still have to pass minhash.")
    assert page.inner_text(".limits .ask code").endswith(" heuristics.too_short=3,none")
    low.press("Home")
    assert page.inner_text(".limits .low output") == "no limit" and "30 more" in page.inner_text(told)
    assert page.evaluate("document.querySelectorAll('.histogram .out').length") == 0
    page.locator(".limits .high input").press("Home")
    assert "5,274 fewer" not in page.inner_text(told) and "fewer" in page.inner_text(told)
    page.select_option(".limits select", "language.score")
    assert page.inner_text(told) == "No rule limits this." and page.locator(".limits .sliders").is_hidden()
    assert page.evaluate("document.querySelectorAll('.histogram rect').length") == 2


def test_tables_sort_by_number(opened):
    page = opened(1366)
    values = "[...document.querySelectorAll('#all-numbers tbody tr')].map(r => Number(r.cells[2].dataset.value))"
    page.click("#all-numbers th:nth-child(3) button")
    assert page.evaluate(values) == sorted(page.evaluate(values))
    page.click("#all-numbers th:nth-child(3) button")
    assert page.evaluate(values) == sorted(page.evaluate(values), reverse=True)
    assert page.get_attribute("#all-numbers th:nth-child(3)", "aria-sort") == "descending"


def test_foreign_scripts_and_requests_are_refused(browser, address):
    page = browser.new_page()
    page.goto(address)
    page.evaluate("""() => {
        const script = document.createElement("script");
        script.textContent = "window.stolen = 1";
        document.body.append(script);
    }""")
    assert page.evaluate("window.stolen") is None
    assert page.evaluate("fetch('https://example.org').then(() => 'sent', () => 'refused')") == "refused"
    page.close()
