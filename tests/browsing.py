"""What tests of pages share: the browser, what it hears of a page, and axe-core, which looks for barriers in it."""

import os
import shutil
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
needs_browser = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="needs chromium on the PATH")]
WIDTHS = {1366: 768, 390: 844}
CHECK = "axe.run({resultTypes: ['violations']}).then(result => result.violations)"


def listen(page, faults: list[str], *, except_for: tuple[str, ...] = ()) -> None:
    """Adds to `faults` what a page complains of in its console, and what fails in it."""
    def said(message):
        if message.type in ("error", "warning") and not message.text.startswith(except_for):
            faults.append(message.text)

    page.on("console", said)
    page.on("pageerror", lambda error: faults.append(str(error)))


@pytest.fixture(scope="module")
def browser():
    """Chromium. Its event loop lives in the test's thread, so that no longer than a module."""
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=CHROMIUM,
                                         args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"])
        yield browser
        browser.close()


@pytest.fixture
def barriers():
    """A function of a page as it stands: each serious or critical violation of axe-core's rules, where, and why.

    The page's own policy keeps foreign scripts out; the browser's debugger may bring one in.
    """
    source = Path(os.environ.get("BLOOMERY_NODE_MODULES", "")) / "axe-core" / "axe.min.js"
    if not source.is_file():
        pytest.skip("BLOOMERY_NODE_MODULES names no folder of npm packages with axe-core: barriers are not looked for")

    def found(page) -> list[str]:
        page.evaluate(source.read_text(encoding="utf-8"))
        return [f"{rule['id']} at {node['target']}: {node['failureSummary']}" for rule in page.evaluate(CHECK)
                if rule["impact"] in ("serious", "critical") for node in rule["nodes"]]

    return found
