"""The chat page in a browser that is offline: nothing is asked of other machines, nothing is said in the console."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from bloomery.core.records import Message, Preference
from bloomery.data.formats import record
from tests.browsing import WIDTHS, listen, needs_browser

pytest.importorskip("uvicorn")

from page_server import PAGE, Known, listening, until  # noqa: E402

pytestmark = needs_browser


@pytest.fixture(scope="module")
def address() -> Iterator[tuple[str, Known]]:
    known = Known()
    with listening(known, 0) as port:
        yield f"http://127.0.0.1:{port}/", known


@pytest.fixture
def opened(browser, address):
    """A function that opens the page as a new visitor; when the test is over the page must have kept quiet."""
    faults, contexts = [], []
    base, known = address
    known.reset()

    def local(route):
        if route.request.url.startswith(("http://127.0.0.1:", "blob:")):
            return route.continue_()
        faults.append(route.request.url)
        return route.abort()

    def at(width: int = 1366, scheme: str = "light", *, refused: bool = False, address: str = base):
        """`refused`: the server will refuse something, which a browser always notes in its console."""
        context = browser.new_context(viewport={"width": width, "height": WIDTHS[width]}, color_scheme=scheme,
                                      accept_downloads=True)
        page = context.new_page()
        page.set_default_timeout(10_000)
        listen(page, faults, except_for=("Failed to load",) if refused else ())
        page.route("**/*", local)
        page.goto(address)
        contexts.append(context)
        return page

    at.known = known
    yield at
    for context in contexts:
        context.close()
    assert faults == []


def send(page, text: str) -> None:
    page.wait_for_selector("#models select")
    page.fill("#draft", text)
    page.press("#draft", "Enter")


def answered(page, turns: int = 1) -> None:
    """Until the last of so many turns can be asked again."""
    page.wait_for_function("n => document.querySelectorAll('.turn').length === n"
                           " && document.querySelector('.last [data-act=again]')", arg=turns)


def lines(page, name: str) -> list[dict]:
    page.click("[popovertarget=export]")
    with page.expect_download() as download:
        page.click(f"#export [data-act={name}]")
    return [json.loads(line) for line in Path(download.value.path()).read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_conversation_fits_and_keeps_quiet(opened, width, scheme):
    page = opened(width, scheme)
    fits = "[document.documentElement, document.getElementById('scroll')].every(n => n.scrollWidth <= n.clientWidth)"
    send(page, "Tell me about lists, at some length, please.")
    answered(page)
    assert page.evaluate(fits)
    page.click("#odds")
    page.click("[data-act=compare]")
    send(page, "a" * 300 + " and the same from both of you, please.")
    answered(page, 2)
    assert page.evaluate(fits)
    page.click("#tune")
    assert page.evaluate(fits)
    assert page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches") == (scheme == "dark")
    edge = "document.querySelector('{}').getBoundingClientRect().right"
    assert page.evaluate(f"{edge.format('#send')} < {edge.format('.box')}")


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_bars_anyone_from_it(opened, barriers, width, scheme):
    """Every state a visitor meets, one after another; and the checker does see a barrier when there is one."""
    page = opened(width, scheme)
    page.wait_for_selector("#models select")
    assert barriers(page) == [], "empty"
    opened.known.pace = 0.05
    send(page, "Tell me about lists, at some length, please.")
    page.wait_for_selector(".writing")
    assert barriers(page) == [], "writing"
    opened.known.pace = 0
    answered(page)
    assert barriers(page) == [], "answered"
    page.click("#odds")
    page.click("[data-act=again]")
    page.wait_for_selector(".token")
    answered(page)
    page.locator(".token").nth(2).focus()
    page.keyboard.press("Enter")
    assert barriers(page) == [], "probabilities"
    page.keyboard.press("Escape")
    page.click("[data-act=compare]")
    send(page, "hello")
    answered(page, 2)
    page.click("[data-act=pick-1]")
    assert barriers(page) == [], "comparing"
    for menu in ("export", "conversations"):
        page.click(f"[popovertarget={menu}]")
        assert barriers(page) == [], menu
        page.keyboard.press("Escape")
    page.click("[data-act=drop-1]")
    page.select_option("#best", "4")
    send(page, "hello")
    answered(page, 3)
    assert barriers(page) == [], "best of four"
    page.click(".last .edit")
    assert barriers(page) == [], "editing"
    page.keyboard.press("Escape")
    page.click("#tune")
    assert barriers(page) == [], "settings"
    page.fill("#set-temperature", "0")
    assert barriers(page) == [], "settings of the likeliest token"
    page.evaluate("document.querySelector('main').append(new Image())")
    assert [found.split()[0] for found in barriers(page)] == ["image-alt"]


def test_what_a_model_says_is_never_markup(opened):
    page = opened()
    send(page, "Tell me about lists, at some length, please.")
    answered(page)
    assert page.evaluate("window.stolen") is None
    assert page.evaluate("[...document.querySelectorAll('.text :is(img, script, iframe, style)')].length") == 0
    assert page.evaluate("[...document.querySelectorAll('.text a')].map(a => a.protocol)") == ["https:", "https:"]
    assert page.inner_text(".text li li") == 'nested <img src=x onerror="window.stolen=1">'
    assert page.inner_text(".text pre") == 'print("<b>hello</b>")'
    assert page.inner_text(".text td >> nth=1") == "1"
    assert page.inner_text(".text h4") == "A list of things"


HOSTILE = ["*" * 20_000, "[" * 20_000, "**a " * 10_000, "> " * 10_000, "`" * 20_000, "- " * 10_000, "|-" * 10_000,
           "_a" * 10_000, "[a](https://" * 3000, "\n - x" * 3000, "#" * 20_000, "~~~\n" * 5000, "~~a" * 9000]


def test_hostile_text_is_drawn_whole(opened):
    """A rule of more than linear time would keep this test for minutes."""
    page = opened()
    drawn = page.evaluate("""async texts => {
        const { markdown } = await import("/static/markdown.js");
        return texts.map(text => {
            const node = document.createElement("div");
            markdown(node, text);
            return node.textContent;
        });
    }""", HOSTILE)
    letters = [re.sub(r"[^a-z]", "", text) for text in HOSTILE]
    assert [re.sub(r"[^a-z]", "", text) for text in drawn] == letters


def test_stopping_cancels_at_the_server_and_keeps_what_was_said(opened):
    page = opened()
    opened.known.pace = 0.2
    send(page, "Tell me about lists, at some length, please.")
    page.wait_for_function("() => document.querySelector('.text')?.textContent.includes('list')")
    assert page.get_attribute("#send", "aria-label") == "Stop"
    page.click("#send")
    answered(page)
    until(lambda: opened.known.cancelled == 1)
    assert "stopped" in page.inner_text(".facts") and "list" in page.inner_text(".text")
    send(page, "Tell me about tuples, at some length, please.")
    page.wait_for_function("() => document.querySelector('.last .text')?.textContent.includes('list')")
    page.keyboard.press("Escape")
    until(lambda: opened.known.cancelled == 2)
    assert page.inner_text(".turn:first-child .said") == "Tell me about lists, at some length, please."


def test_settings_are_sent_and_neutral_ones_are_not(opened):
    page = opened()
    send(page, "hello")
    answered(page)
    assert {"temperature": 0.8, "top_p": 0.95}.items() <= opened.known.asked[0].items()
    assert not {"top_k", "min_p", "repetition_penalty", "max_tokens"} & set(opened.known.asked[0])
    page.click("#tune")
    page.fill("#system", "Be brief.")
    values = {"temperature": 0, "top_k": 40, "min_p": 0.1, "repetition_penalty": 1.2, "max_tokens": 64, "seed": 7}
    for name, value in {**values, "top_p": 1}.items():
        page.fill(f"#set-{name}", str(value))
        assert len(page.inner_text(f"#why-{name}")) > 20
    send(page, "again")
    answered(page, 2)
    asked = opened.known.asked[1]
    assert values.items() <= asked.items() and "top_p" not in asked
    assert [(message["role"], message["content"]) for message in asked["messages"]] == [
        ("system", "Be brief."), ("user", "hello"), ("assistant", "small-dpo: hello"), ("user", "again")]


def test_regenerating_editing_and_undoing(opened):
    page = opened()
    send(page, "one")
    answered(page)
    page.click("[data-act=again]")
    page.wait_for_selector(".pager")
    assert opened.known.asked[0]["messages"] == opened.known.asked[1]["messages"]
    assert opened.known.asked[0]["seed"] != opened.known.asked[1]["seed"]
    assert "2 / 2" in page.inner_text(".pager")
    page.click("[data-act=back]")
    assert "1 / 2" in page.inner_text(".pager")
    send(page, "two")
    answered(page, 2)
    page.click(".turn:first-child .said")
    page.keyboard.type(" more")
    page.keyboard.press("Enter")
    answered(page, 1)
    assert opened.known.asked[-1]["messages"] == [{"role": "user", "content": "one more"}]
    page.click("#toast button")
    answered(page, 2)
    assert page.locator(".said").all_inner_texts() == ["one", "two"]


def test_comparing_shares_the_prompt_and_the_seed_and_makes_preferences(opened):
    page = opened()
    page.wait_for_selector("#models select")
    page.click("[data-act=compare]")
    send(page, "hello")
    answered(page)
    first, second = opened.known.asked
    assert {first["model"], second["model"]} == {"small-dpo", "small-sft"}
    assert first["messages"] == second["messages"] and first["seed"] == second["seed"]
    page.click("[data-act=pick-1]")
    assert page.get_attribute("[data-act=pick-1]", "aria-pressed") == "true"
    send(page, "go on")
    answered(page, 2)
    assert opened.known.asked[-1]["messages"][1] == {"role": "assistant", "content": "small-sft: hello"}
    assert lines(page, "preferences") == [{"prompt": [{"role": "user", "content": "hello"}],
                                           "chosen": "small-sft: hello", "rejected": "small-dpo: hello"}]
    assert lines(page, "conversation")[0]["messages"][:2] == opened.known.asked[-1]["messages"][:2]


def test_exports_are_what_training_reads(opened):
    page = opened()
    page.wait_for_selector("#models select")
    page.click("[data-act=compare]")
    send(page, "hello")
    answered(page)
    page.click("[data-act=pick-0]")
    told, = lines(page, "conversation")
    judged, = lines(page, "preferences")
    assert record(told, "line 1").messages == (Message("user", "hello"), Message("assistant", "small-dpo: hello"))
    assert record(judged, "") == Preference((Message("user", "hello"),), "small-dpo: hello", "small-sft: hello")


def test_best_of_shows_every_candidate_with_its_score(opened):
    page = opened()
    page.wait_for_selector("#models select")
    page.select_option("#best", "4")
    send(page, "hello")
    answered(page)
    assert {"n": 4, "best_of": 4, "reward": "judge"}.items() <= opened.known.asked[0].items()
    assert page.locator(".tag").all_inner_texts() == ["score 1.500", "score 0.500", "score −0.500", "score −1.500"]
    assert "KL ≤ 0.64" in page.inner_text(".last > .under")


def test_a_mended_answer_is_a_version_and_makes_a_preference(opened):
    page = opened()
    send(page, "hello")
    answered(page)
    page.click("[data-act=edit-answer-0]")
    page.fill(".editing textarea", "Good morning.")
    page.press(".editing textarea", "Control+Enter")
    assert "2 / 2" in page.inner_text(".pager")
    assert lines(page, "conversation") == [{"messages": [{"role": "user", "content": "hello"},
                                                         {"role": "assistant", "content": "Good morning."}]}]
    page.click("[data-act=merge]")
    assert page.locator(".answer").count() == 2 and page.locator(".pager").count() == 0
    page.click("[data-act=pick-1]")
    assert lines(page, "preferences") == [{"prompt": [{"role": "user", "content": "hello"}],
                                           "chosen": "Good morning.", "rejected": "small-dpo: hello"}]


def test_parts_of_characters_are_joined(opened):
    page = opened()
    tokens = page.evaluate("""async () => {
        const { spelled, showTokens } = await import("/static/tokens.js");
        const tokens = [["a", -1, []], ["\\ufffd", -1, [], [0xe2]], ["\\ufffd", -1, [], [0x82, 0xac]], ["!", -1, []]];
        const node = document.createElement("div");
        showTokens(node, tokens.slice(0, 2));
        showTokens(node, tokens);
        return [spelled(tokens), ...[...node.children].map(token => token.textContent)];
    }""")
    assert tokens == ["a€!", "a", "▫", "€", "!"]


def test_token_probabilities_by_pointer_and_by_keyboard(opened):
    page = opened()
    page.wait_for_selector("#models select")
    page.click("#odds")
    send(page, "Tell me about lists, at some length, please.")
    answered(page)
    assert opened.known.asked[0]["logprobs"] is True and opened.known.asked[0]["top_logprobs"] == 5
    page.locator(".token").nth(2).hover()
    assert "20 %" in page.inner_text("#token") and "␣other" in page.inner_text("#token")
    page.mouse.move(5, 500)
    assert not page.is_visible("#token")
    page.locator(".token").first.focus()
    page.keyboard.press("ArrowRight")
    assert "60 %" in page.inner_text("#token")
    assert page.evaluate("document.querySelectorAll('.token[tabindex=\"0\"]').length") == 1
    page.keyboard.press("Enter")                        # the other tokens become buttons
    assert page.evaluate("document.activeElement.closest('#token') !== null")
    page.keyboard.press("Enter")
    page.wait_for_selector(".pager")
    asked = opened.known.asked[1]
    assert asked["continue_final_message"] is True
    assert asked["messages"][-1] == {"role": "assistant", "content": "## other"}
    assert page.evaluate("document.querySelector('.text').textContent").startswith("## other")


def test_a_base_model_continues_plain_text(opened):
    page = opened()
    page.wait_for_selector("#models select")
    page.select_option("#models select", "small-base")
    page.click("#kind [value=text]")
    page.click("#odds")
    page.fill("#draft", "Once upon a time")
    page.press("#draft", "Control+Enter")
    answered(page)
    assert {"prompt": "Once upon a time", "model": "small-base", "logprobs": 5}.items() <= opened.known.asked[0].items()
    page.press("#draft", "Control+Enter")
    answered(page, 2)
    assert opened.known.asked[1]["prompt"] == "Once upon a time and so on."
    assert lines(page, "conversation") == [{"text": "Once upon a time and so on. and so on."}]
    page.click(".turn:first-child .said")
    page.keyboard.type(" there")
    page.keyboard.press("Control+Enter")
    answered(page, 1)
    assert opened.known.asked[2]["prompt"] == "Once upon a time there"


def test_everything_is_reached_by_keyboard(opened):
    page = opened()
    page.wait_for_selector("#models select")
    assert page.evaluate("document.activeElement.id") == "draft"
    page.keyboard.type("hello")
    page.keyboard.press("Enter")
    answered(page)
    seen = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("""() => {
            const at = document.activeElement;
            const ring = at === document.body || getComputedStyle(at).outlineStyle !== "none";
            const name = at.id || at.dataset.act || at.value || at.getAttribute("popovertarget");
            return name + (ring ? "" : " without a ring");
        }"""))
    assert {"new", "conversations", "export", "tune", "model-0", "compare", "edit-0", "again", "copy-0", "chat", "best",
            "odds", "send"} <= seen
    assert not {name for name in seen if "without" in name and not name.startswith("draft")}
    page.focus("#tune")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "system"
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.id") == "tune"
    page.focus("#draft")
    page.keyboard.press("ArrowUp")
    assert page.evaluate("document.activeElement.value") == "hello"
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.dataset.act") == "edit-0"


def test_what_was_said_survives_a_reload_and_can_be_found_again(opened):
    page = opened()
    send(page, "hello")
    answered(page)
    page.fill("#draft", "half a thought")
    page.reload()
    page.wait_for_selector("#models select")
    assert page.input_value("#draft") == "half a thought" and page.inner_text(".text") == "small-dpo: hello"
    send(page, "/clear")
    page.wait_for_selector(".welcome")
    page.click("[popovertarget=conversations]")
    page.click("#conversations .entry")
    assert page.inner_text(".text") == "small-dpo: hello"
    page.click("[popovertarget=conversations]")
    page.click("#conversations .row .act")
    page.wait_for_selector(".welcome")
    page.click("#toast button")
    assert page.inner_text(".text") == "small-dpo: hello"


def test_refusals_are_shown_where_they_belong(opened):
    page = opened(refused=True)
    send(page, "too long")
    page.wait_for_selector(".warns")
    assert "600 tokens" in page.inner_text(".warns") and "Start anew" in page.inner_text(".warns")
    send(page, "hello")
    answered(page, 2)
    assert opened.known.asked[-1]["messages"] == [{"role": "user", "content": "hello"}]    # without the failed turn


def test_candidates_that_are_refused_are_refused_once(opened):
    page = opened(refused=True)
    page.wait_for_selector("#models select")
    page.select_option("#best", "16")
    send(page, "hello")
    answered(page)
    assert page.locator(".warns").all_inner_texts() == ["this server writes 8 answers at a time. Try again"]


def test_a_key_is_asked_for_and_kept_for_the_tab_only(opened):
    opened.known.key = "secret"
    page = opened(refused=True)
    page.fill("#banner input", "secret")
    page.press("#banner input", "Enter")
    page.wait_for_selector("#models select")
    assert page.evaluate("JSON.stringify(localStorage)").count("secret") == 0 and page.is_hidden("#banner")


def test_the_draft_survives_a_restart_of_the_server(opened, address):
    known = Known()
    known.pace = 0.2
    with listening(known, 0) as port:
        base = f"http://127.0.0.1:{port}/"
        page = opened(refused=True, address=base)
        send(page, "Tell me about lists, at some length, please.")
        page.wait_for_function("() => document.querySelector('.text')?.textContent.includes('list')")
        page.fill("#draft", "half a thought")
    page.wait_for_selector("#banner:not([hidden])")
    assert "broke off" in page.inner_text(".warns") or "does not answer" in page.inner_text(".warns")
    with listening(Known(), port):
        page.wait_for_selector("#banner", state="hidden")
        assert page.input_value("#draft") == "half a thought" and "list" in page.inner_text(".text")
        page.click("[data-act=retry]")
        page.wait_for_selector(".pager")


def test_the_newest_checkpoint_is_loaded_on_request(opened):
    page = opened()
    page.wait_for_selector("#models select")
    page.click("#tune")
    page.click("[data-act=reload-small-dpo]")
    page.wait_for_selector("#toast.open")
    assert "step-200" in page.inner_text("#toast")


def test_nothing_in_the_page_parses_markup_or_reaches_out():
    forbidden = re.compile(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function|https?://(?!www\.w3\.org/)")
    files = {path.name: path.read_text(encoding="utf-8") for path in PAGE.iterdir()}
    assert "main.js" in files and [name for name, text in files.items() if forbidden.search(text)] == []
    assert not re.search(r"<script(?![^>]*\bsrc=)|\sstyle=|\son\w+=", files["index.html"])


def test_a_conversation_with_the_real_server(opened, serving):
    with serving(pace=0.02) as live:
        page = opened(address=f"{live.url}/")
        page.wait_for_selector("#models select")
        assert page.input_value("#models select") == "tiny"
        page.click("#odds")
        send(page, "Where is the old boat?")
        page.wait_for_function("() => document.querySelectorAll('.token').length > 3")
        page.click("#send")
        answered(page)
        until(lambda: live.models.engines["tiny"].free_slots == live.settings.slots)
        page.click("#odds")
        page.click("#tune")
        page.fill("#set-max_tokens", "8")
        page.click("[data-act=compare]")
        send(page, "And in winter?")
        answered(page, 2)
        assert page.locator(".last .warns").count() == 0
        assert [name.strip() for name in page.locator(".last .answer h3").all_inner_texts()] == ["tiny", "base"]
        page.click("[data-act=drop-1]")
        page.select_option("#best", "4")
        page.fill("#draft", "Why?")
        page.press("#draft", "Enter")
        answered(page, 3)
        scores = [float(tag.split()[-1].replace("−", "-")) for tag in page.locator(".last .tag").all_inner_texts()]
        assert len(scores) == 4 and scores == sorted(scores, reverse=True)
