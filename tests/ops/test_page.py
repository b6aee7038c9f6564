"""The page in a browser: light and dark, on a phone and on a desk, with and without its script."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.browser import Browser, running_browser
from tests.support.page import PageStage, busy_stage
from tests.support.programs import program
from tests.support.troubles import healthy, html_of, main
from tests.unit.samples import opened
from worker.errors import BlockReason, Reason
from worker.settings.tables import Http
from worker.telemetry.health import Pages, serve
from worker.telemetry.state import Block, DeadLettered, State

PHONE, TABLET, DESK = 360, 768, 1280
LONG_NAME = "a-topic-whose-name-is-as-long-as-they-come." * 5


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with running_browser(program("chromium"), tmp_path_factory.mktemp("browser") / "profile") as running:
        yield running


@contextmanager
def served(stage: PageStage) -> Iterator[str]:
    """The address of a page."""
    pages = Pages(stage.metrics.registry, stage.status, stage.ledger, stage.page, stage.clock)
    running = serve(Http(host="127.0.0.1", port=0), pages)
    yield f"http://127.0.0.1:{running.port}/"
    running.stop()


@pytest.fixture(scope="module")
def stage() -> PageStage:
    """A busy one, which only its state may be changed of."""
    return busy_stage()


@pytest.fixture(scope="module")
def url(stage: PageStage) -> Iterator[str]:
    with served(stage) as address:
        yield address


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, TABLET, DESK])
def test_it_fits_its_window_asks_nobody_else_and_complains_of_nothing(
    browser: Browser, url: str, tmp_path: Path, width: int, dark: bool
) -> None:
    with browser.tab() as tab:
        tab.go(url, width=width, dark=dark)
        tab.evaluate("document.querySelector('details').open = true")
        wide = tab.evaluate("document.documentElement.scrollWidth")
        background = tab.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        tab.screenshot(tmp_path / "page.png")
        # The page refreshes itself every five seconds.
        assert (wide, set(tab.requests), tab.complaints) == (width, {url}, [])
        assert background == ("rgb(18, 22, 28)" if dark else "rgb(246, 247, 249)")
    assert (tmp_path / "page.png").stat().st_size > 10_000


@pytest.mark.parametrize("width", [PHONE, DESK])
def test_the_longest_names_and_messages_make_no_window_scroll_sideways(browser: Browser, width: int) -> None:
    stage = PageStage([LONG_NAME], [LONG_NAME])
    stage.metrics.worker_info.clear()
    stage.metrics.worker_info.labels("0.1.0", LONG_NAME, LONG_NAME, "").set(1)
    stage.status.enter(State.STARTING, "x" * 300)
    stage.status.block(Block(LONG_NAME, BlockReason.TARGET), "y" * 5000)
    stage.status.dead_lettered(
        DeadLettered(LONG_NAME, 2**31 - 1, 2**63 - 1, Reason.ISOLATED_SERVER_ERROR, stage.wall())
    )
    stage.metrics.dead_letters.labels(LONG_NAME, Reason.ISOLATED_SERVER_ERROR.value).inc(10**15)
    opened(stage.ledger, LONG_NAME, 2**31 - 1, 2**63 - 1)
    with served(stage) as address, browser.tab() as tab:
        tab.go(address, width=width)
        names = tab.evaluate("document.body.textContent").count(LONG_NAME)
        assert (names, tab.evaluate("document.documentElement.scrollWidth")) == (6, width)


def test_no_text_is_too_faint_to_read(browser: Browser, url: str) -> None:
    for dark in (False, True):
        with browser.tab() as tab:
            tab.go(url, width=DESK, dark=dark)
            # The contrast of a text with its card, by WCAG 2: at least 4.5 to 1.
            assert tab.evaluate(_FAINT) == []


_FAINT = """(() => {
  const light = (colour) => {
    const [r, g, b] = colour.match(/\\d+/g).map((part) => {
      const share = part / 255;
      return share <= 0.03928 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const card = light(getComputedStyle(document.querySelector("section")).backgroundColor);
  return [...document.querySelectorAll("main *")].filter((element) => {
    if (![...element.childNodes].some((child) => child.nodeType === 3 && child.data.trim())) return false;
    if (getComputedStyle(element).visibility === "hidden") return false;
    const ink = light(getComputedStyle(element).color);
    return (Math.max(ink, card) + 0.05) / (Math.min(ink, card) + 0.05) < 4.5;
  }).map((element) => element.outerHTML);
})()"""


def test_its_script_puts_what_is_new_in_its_place_and_leaves_open_what_was_opened(
    browser: Browser, url: str, stage: PageStage
) -> None:
    with browser.tab() as tab:
        tab.go(url, width=DESK)
        tab.evaluate("document.querySelector('summary').click()")
        tab.evaluate("document.querySelector('summary').focus()")
        stage.status.enter(State.DRAINING, "told to stop")
        stage.clock.pass_by(2.0)
        tab.evaluate("refresh()")
        shown = tab.evaluate(
            "[document.querySelector('h1').textContent, document.title, document.querySelector('details').open, "
            "document.activeElement.id, document.getElementById('stale').hidden]"
        )
        assert shown == [
            "draining, 2 blocked",
            "draining, 2 blocked · docs-writer-1",
            True,
            "settings-summary",
            True,
        ]
        assert (set(tab.requests), tab.complaints) == ({url}, [])


def test_a_worker_that_answers_no_more_is_told_and_the_last_figures_stay(
    browser: Browser, url: str, stage: PageStage
) -> None:
    stage.status.enter(State.RUNNING, "running")
    stage.clock.pass_by(2.0)
    with browser.tab() as tab:
        tab.go(url, width=DESK)
        tab.call("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0)
        tab.evaluate("refresh()")
        told, heading = tab.evaluate("[document.body.innerText, document.querySelector('h1').textContent]")
        assert re.match(r"No answer from the worker; what is shown is of \d\d:\d\d:\d\d UTC\.", told)
        assert (heading, tab.evaluate("document.title")) == ("running, 2 blocked", "no answer · docs-writer-1")
        assert tab.evaluate(_TONE) == _GREY


_TONE = "getComputedStyle(document.querySelector('h1')).color"
_GREY = "rgb(90, 100, 115)"


def test_a_page_that_cannot_be_made_is_told_by_its_status_and_a_good_answer_takes_that_back(
    browser: Browser, url: str, stage: PageStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> bytes:
        raise ValueError("broken")

    with browser.tab() as tab:
        tab.go(url, width=DESK)
        title = tab.evaluate("document.title")
        with monkeypatch.context() as broken:
            broken.setattr(stage.page, "html", fail)
            tab.evaluate("refresh()")
            assert "The worker answered 500" in tab.evaluate("document.body.innerText")
            assert tab.evaluate("document.title") == "no answer · docs-writer-1"
        tab.evaluate("refresh()")
        assert tab.evaluate("[document.title, document.getElementById('stale').hidden]") == [title, True]


@pytest.mark.parametrize("scripts", [True, False], ids=["with scripts", "without"])
def test_a_page_that_nothing_renews_says_so_and_loses_its_colour(
    browser: Browser, tmp_path: Path, scripts: bool
) -> None:
    page = tmp_path / "page.html"
    page.write_text(html_of(healthy()))
    with browser.tab() as tab:
        tab.go(page.as_uri(), width=DESK, scripts=scripts)
        tab.call("Emulation.setScriptExecutionDisabled", value=False)
        visible = "getComputedStyle(document.querySelector('.aged')).visibility"
        fresh = tab.evaluate(f"[{visible}, {_TONE}]")
        tab.evaluate("document.getAnimations().forEach((each) => each.finish())")  # the 30 s are over
        old = tab.evaluate(f"[{visible}, {_TONE}]")
        assert (fresh[0], fresh[1] == _GREY) == ("hidden", False)
        assert old == ["visible", _GREY]


@pytest.fixture(scope="module")
def troubles(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The page of each trouble, as a file."""
    folder = tmp_path_factory.mktemp("troubles")
    main(folder)
    return sorted(folder.iterdir())


@pytest.mark.parametrize("width", [PHONE, TABLET, DESK])
def test_in_no_trouble_a_word_is_broken_or_a_unit_alone_on_its_line(
    browser: Browser, troubles: list[Path], width: int
) -> None:
    with browser.tab() as tab:
        for page in troubles:
            tab.go(page.as_uri(), width=width)
            found = tab.evaluate(f"[document.documentElement.scrollWidth, {_BROKEN}]")
            assert found == [width, []], page.stem


def test_in_no_trouble_half_of_a_desk_is_empty(browser: Browser, troubles: list[Path]) -> None:
    with browser.tab() as tab:
        for page in troubles:
            tab.go(page.as_uri(), width=DESK)
            assert tab.evaluate(_EMPTY) == [], page.stem


# Words of which parts are on two lines, and units that are not beside their number.
_BROKEN = """(() => {
  const found = [];
  const walker = document.createTreeWalker(document.querySelector("main"), NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode;
    for (const pattern of [/[\\w.]+/g, /\\d[ \\u00a0](?:ms|s|min|h|d|B|KiB|MiB|%)(?!\\w)/g]) {
      for (const match of text.data.matchAll(pattern)) {
        const range = document.createRange();
        range.setStart(text, match.index);
        range.setEnd(text, match.index + match[0].length);
        const tops = new Set([...range.getClientRects()].filter((rect) => rect.width > 0).map((rect) => Math.round(rect.top)));
        if (tops.size > 1) found.push(`${match[0]} in ${text.data}`);
      }
    }
  }
  return found;
})()"""

# Rows of tiles that are not full, and columns of which one is half as long as the other.
_EMPTY = """(() => {
  const found = [];
  const tops = [...document.querySelectorAll(".tiles > div")].map((tile) => tile.getBoundingClientRect().top);
  if (new Set(tops).size > 1) found.push("tiles");
  const ends = new Map();
  for (const section of document.querySelectorAll(".columns > section")) {
    const { left, bottom } = section.getBoundingClientRect();
    ends.set(left, Math.max(bottom, ends.get(left) ?? 0));
  }
  const top = document.querySelector(".columns").getBoundingClientRect().top;
  const lengths = [...ends.values()].map((end) => end - top);
  if (lengths.length !== 2 || Math.min(...lengths) < Math.max(...lengths) / 2) found.push(`columns ${lengths}`);
  return found;
})()"""


def test_in_every_trouble_all_texts_can_be_read_in_the_dark(browser: Browser, troubles: list[Path]) -> None:
    with browser.tab() as tab:
        for page in troubles:
            tab.go(page.as_uri(), width=DESK, dark=True)
            assert tab.evaluate(_FAINT) == [], page.stem


def test_without_scripts_all_is_there(browser: Browser, url: str, stage: PageStage) -> None:
    stage.status.enter(State.RUNNING, "running")
    stage.clock.pass_by(2.0)
    with browser.tab() as tab:
        tab.go(url, width=PHONE, scripts=False)
        tab.call("Emulation.setScriptExecutionDisabled", value=False)
        shown = tab.evaluate("document.querySelector('main').innerText")
        assert [words in shown for words in ("Running, 2 blocked", "vectors/1 offset 10421", "images/11")] == [True] * 3
        assert tab.evaluate("document.querySelector('noscript > meta').httpEquiv") == "refresh"
