"""The report's page in a browser: what a person sees and does, on a desk and on a telephone, and what nobody can."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from bench.clusters import Shape, manifest
from tests.pictures.browser import CONTRAST, WIDER, Browser
from tests.pictures.conftest import WritePage
from tests.pictures.hostile import NASTY, hostile_manifest

pytestmark = pytest.mark.browser

HINTS = ("-f", "golden/topology-hints/cluster.yaml", "--node", "node-a")
ROWS = "document.querySelectorAll('#rows tr.service').length"
ACTIVE = "document.activeElement.textContent"
DRAWN = "document.querySelectorAll('td.detail svg').length"
DRAWING = "[...document.querySelectorAll('td.detail svg text')].map((one) => one.textContent).join('\\n')"


def test_the_page_in_a_browser(browser: Browser, write_page: WritePage, tmp_path: Path) -> None:
    page = write_page(*HINTS)
    browser.resize(900, 900)
    browser.open(page)
    assert browser.evaluate(ROWS) == 7
    keys_alone_open_and_close_a_service(browser)
    words_and_filters_find_services(browser)
    titles_sort(browser)
    for scheme in ("light", "dark"):
        browser.prefer(scheme)
        all_can_be_read(browser, page, scheme)
    browser.resize(360, 740)
    nothing_is_wider_than_a_telephone(browser, page)
    assert nothing_was_wrong(browser)
    browser.resize(1300, 900)
    names_do_nothing(browser, write_page, tmp_path)


def keys_alone_open_and_close_a_service(browser: Browser) -> None:
    browser.press("/")
    browser.type("zonal")
    assert browser.evaluate("document.getElementById('search').value") == "zonal"
    assert browser.evaluate(ROWS) == 1
    browser.press("ArrowDown")
    assert browser.evaluate(ACTIVE) == "default/zonal"
    browser.press("Enter")
    browser.until(f"{DRAWN} === 1")
    assert browser.evaluate("document.activeElement.getAttribute('aria-expanded')") == "true"
    drawing = browser.evaluate(DRAWING)
    for words in ("NodePort", "port 30080/TCP", "from this node: balanced", "masqueraded", "50 %", "(SVC-32)"):
        assert words in drawing
    browser.press("Escape")
    assert browser.evaluate(DRAWN) == 0
    browser.press("ArrowUp")
    assert browser.evaluate("document.activeElement.id") == "search"
    browser.press("Escape")
    assert browser.evaluate(ROWS) == 7


def words_and_filters_find_services(browser: Browser) -> None:
    def search(words: str) -> list[str]:
        browser.evaluate(
            f"""(() => {{ const box = document.getElementById('search'); box.value = {json.dumps(words)};
            box.dispatchEvent(new Event('input')); }})()"""
        )
        found = browser.evaluate("[...document.querySelectorAll('tr.service button')].map((one) => one.textContent)")
        return list(found)

    def show(title: str) -> None:
        browser.evaluate(
            f"""(() => {{ const box = document.getElementById('filter');
            box.selectedIndex = [...box.options].findIndex((one) => one.textContent === {json.dumps(title)});
            box.dispatchEvent(new Event('change')); }})()"""
        )

    assert search("10.96.0.26") == ["default/draining"]
    assert search("ZONAL-x7k2p-1") == ["default/zonal"]
    assert search("zone-1 svc-32 30080") == ["default/zonal"]
    assert search("nowhere") == []
    assert browser.evaluate("document.getElementById('count').textContent") == "0 of 7 Services"
    show("with endpoints left out")
    assert "default/draining" not in search("")
    assert "default/zonal" in search("")
    show("all")
    assert len(search("")) == 7


def titles_sort(browser: Browser) -> None:
    first = "document.querySelector('tr.service button').textContent"
    names = (
        "[...document.querySelectorAll('tr.service td:nth-child(4) > div:first-child')].map((one) => one.textContent)"
    )
    browser.evaluate("document.querySelectorAll('#columns button')[2].click()")
    counts = [int(text.split()[0]) for text in browser.evaluate(names)]
    assert counts == sorted(counts, reverse=True)
    assert browser.evaluate("document.querySelectorAll('[aria-sort=descending]').length") == 1
    browser.evaluate("document.querySelectorAll('#columns button')[0].click()")
    assert browser.evaluate(first) == "default/draining"


def all_can_be_read(browser: Browser, page: Path, scheme: str) -> None:
    browser.open(page, "#default/zonal")
    browser.until(f"{DRAWN} === 1")
    background = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") is (scheme == "light")
    assert browser.evaluate(CONTRAST) == []
    # A drawing wider than its place does not make the page wider.
    assert browser.evaluate(WIDER) == 0


def nothing_is_wider_than_a_telephone(browser: Browser, page: Path) -> None:
    browser.open(page, "#default/zonal")
    browser.until(f"{DRAWN} === 1")
    assert browser.evaluate("document.documentElement.clientWidth") == 360
    assert browser.evaluate(WIDER) == 0
    # What is wide is moved inside its own frame, by keys, too.
    frame = "document.querySelector('td.detail .scroll')"
    assert browser.evaluate(f"{frame}.scrollWidth > {frame}.clientWidth && {frame}.tabIndex === 0")


def nothing_was_wrong(browser: Browser) -> bool:
    """No error, nothing that the page's own policy forbids, and nothing asked for but the page."""
    assert browser.complaints == []
    assert [url for url in browser.requests if not url.startswith(("file:", "about:"))] == []
    return True


def names_do_nothing(browser: Browser, write_page: WritePage, tmp_path: Path) -> None:
    page = write_page("-f", str(hostile_manifest(tmp_path)), "--node", "node-a", "--title", NASTY)
    browser.open(page, "#default/web")
    browser.until(f"{DRAWN} === 1")
    assert browser.evaluate("document.querySelectorAll('script').length") == 4
    assert browser.evaluate("document.querySelectorAll('img, iframe, a, foreignObject').length") == 0
    assert browser.evaluate("globalThis.owned === undefined")
    shown = browser.evaluate("document.body.textContent")
    assert "</script><script>owned=1</script>" in shown
    assert "<img src=x onerror=owned=1>" in browser.evaluate(DRAWING).replace("\n", "")
    assert not re.search("[\u2028\u2029\u202e]", shown)
    assert nothing_was_wrong(browser)


def test_ten_thousand_services(
    browser: Browser, write_page: WritePage, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    """With --exhaustive of both families and 200,000 endpoints; else as many as fit in a moment."""
    is_whole = bool(pytestconfig.getoption("exhaustive"))
    shape = Shape(10_000, mixed=True) if is_whole else Shape(300, endpoints=2)
    page = write_page("-f", str(manifest(shape, tmp_path)), "--node", "node-1")
    assert page.stat().st_size < 15_000_000
    browser.resize(1300, 900)
    browser.open(page)
    # However many there are, a screen or two of them is laid out.
    assert browser.evaluate(ROWS) == 100
    assert browser.evaluate("document.querySelectorAll('*').length") < 6000
    browser.press("/")
    last = f"service-{shape.services - 1:05}"
    browser.type(last)
    browser.press("ArrowDown")
    browser.press("Enter")
    browser.until(f"{DRAWN} > 0")
    assert last in browser.evaluate(ACTIVE)
    assert nothing_was_wrong(browser)
