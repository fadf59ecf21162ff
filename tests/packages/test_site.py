"""The documentation as a site, in a browser: each link leads somewhere; search, dark mode and versions work."""

from __future__ import annotations

import functools
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from rulegen import __version__
from tests.pictures.browser import Browser

pytestmark = pytest.mark.packages

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `make site` builds it, and beside it an older version, which is listed."""
    subprocess.run(["make", "site"], cwd=REPOSITORY, check=True, capture_output=True)
    folder = tmp_path_factory.mktemp("site") / "site"
    shutil.copytree(REPOSITORY / "build/site" / __version__, folder / __version__)
    shutil.copytree(folder / __version__, folder / "0.0.9")
    shutil.copy(REPOSITORY / "build/site/index.html", folder)
    versions = [{"version": name, "title": name, "aliases": []} for name in (__version__, "0.0.9")]
    (folder / "versions.json").write_text(json.dumps(versions))
    return folder


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - its name there
        """Nobody reads it."""


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as started:
        yield started


def _open(browser: Browser, url: str) -> None:
    browser.complaints.clear()
    browser.requests.clear()
    browser.send("Page.navigate", url=url)
    browser.until("document.querySelector('.md-version__list')")


def test_each_page_of_the_documentation_is_there_and_each_link_leads_somewhere(site: Path) -> None:
    folder = site / __version__
    pages = {path.stem for path in folder.glob("*.html")}
    assert {path.stem for path in (REPOSITORY / "docs").glob("*.md")} <= pages
    for page in folder.glob("*.html"):
        text = page.read_text()
        names = set(re.findall(r' id="?([^"\s>]+)', text))
        for link in re.findall(r'<a [^>]*href="([^"]*)"', text):
            path, _, fragment = link.partition("#")
            if "://" in link or page.stem == "404":
                continue
            target = page.parent / path if path else page
            target = target / "index.html" if target.is_dir() else target
            assert target.is_file(), f"{page.name}: {link}"
            if fragment and target.suffix == ".html":
                there = names if target == page else set(re.findall(r' id="?([^"\s>]+)', target.read_text()))
                assert fragment in there, f"{page.name}: {link}"


def test_the_first_page_leads_to_the_newest_version_and_others_can_be_chosen(browser: Browser, address: str) -> None:
    _open(browser, f"{address}/index.html")
    browser.until(f"location.pathname === '/{__version__}/index.html'")
    links = browser.evaluate("[...document.querySelectorAll('.md-version__link')].map(one => one.href)")
    assert links == [f"{address}/{__version__}/", f"{address}/0.0.9/"]
    browser.evaluate("document.querySelectorAll('.md-version__link')[1].click()")
    browser.until("location.pathname.startsWith('/0.0.9/')")


def test_it_is_dark_where_that_is_preferred_and_by_a_button(browser: Browser, address: str) -> None:
    for preferred, scheme in (("dark", "slate"), ("light", "default")):
        browser.prefer(preferred)
        _open(browser, f"{address}/{__version__}/canary.html")
        browser.until(f"document.body.dataset.mdColorScheme === '{scheme}'")
    for scheme in ("default", "slate"):
        browser.evaluate("document.querySelector('[data-md-component=palette] label:not([hidden])').click()")
        browser.until(f"document.body.dataset.mdColorScheme === '{scheme}'")
    # It is remembered.
    _open(browser, f"{address}/{__version__}/try.html")
    browser.until("document.body.dataset.mdColorScheme === 'slate'")


def test_what_is_searched_for_is_found(browser: Browser, address: str) -> None:
    _open(browser, f"{address}/{__version__}/index.html")
    browser.evaluate("document.querySelector('.md-search__button').click()")
    browser.until("document.activeElement?.shadowRoot?.activeElement?.tagName === 'INPUT'")
    browser.type("schedulers")
    found = "[...document.activeElement.shadowRoot.querySelectorAll('a')]"
    browser.until(f"{found}.some(one => one.href.includes('/moving.html') && one.href.includes('?'))")
    assert browser.complaints == []
    assert [url for url in browser.requests if not url.startswith((address, "data:", "blob:"))] == []
