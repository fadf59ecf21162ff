"""The agent's page `/status` in a browser, as the agent serves it: light and dark, on a desk and on a telephone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from rulegen.agent.http.server import HttpServer
from rulegen.agent.status.document import Status
from rulegen.agent.status.page import status_page
from rulegen.errors import ApplyError, HostError
from rulegen.kube.decode import ObjectError
from rulegen.kube.faults import Fault
from rulegen.kube.follow import FileUnusable, Interrupted, Invalid
from rulegen.kube.objects import EndpointSlice, Service
from rulegen.reference import Finding, ObjectReference
from tests.agent.asking import open_somewhere
from tests.agent.status.test_page import EVIL, Agent, web
from tests.pictures.browser import CONTRAST, WIDER, Browser

LONG = f"/var/lib/{'a-folder-with-a-long-name-' * 8}/manifests.yaml"
HEADINGS = "[...document.querySelectorAll('h1, h2')].map((one) => one.textContent.trim().replace(/\\s+/g, ' '))"
# What is in a row stands beside its title, or below it, and inside the window.
OUTSIDE = """[...document.querySelectorAll('th, td')].filter((one) => {
  const box = one.getBoundingClientRect();
  return box.left < 0 || box.right > innerWidth || one.scrollWidth > one.clientWidth + 1;
}).map((one) => one.textContent)"""


def well() -> Status:
    agent = Agent("manifests")
    agent.observer.ask_listening(tuple)
    agent.sync(*web("web", "10.96.0.1"))
    return agent.status()


def everything(text: str) -> Status:
    """With something of each kind that may be wrong, and `text` wherever somebody has written one."""
    agent = Agent(text)
    agent.configuration_problem = text
    agent.healthy = False
    agent.sync(*web("web", "10.96.0.1"))
    error = ObjectError("Service", text, (Fault("spec", text),))
    agent.observer.took(
        [
            *(FileUnusable(f"{text}{number}", text) for number in range(120)),
            Invalid(Service, "default", text, error),
            Interrupted(EndpointSlice, HostError(text), 1.0),
        ]
    )
    agent.observer.found_at_the_start([Finding(ObjectReference("Node", "", text), "SysctlNotSet", text)])
    agent.observer.repaired(text, 2, [text, text])
    agent.observer.health_check(("default", text), text, True)
    agent.observer.failed(ApplyError(text), 0.1, is_full=True)
    return agent.status()


STATUSES = {"well": well, "long": lambda: everything(LONG), "evil": lambda: everything(EVIL)}


@pytest.fixture(scope="module")
def url() -> Iterator[dict[str, str]]:
    with closing(HttpServer()) as server:
        yield {
            name: f"http://127.0.0.1:{open_somewhere(server, status_page(status))}/status"
            for name, status in STATUSES.items()
        }


@pytest.mark.parametrize("name", STATUSES)
def test_it_can_be_read_by_day_and_by_night_on_a_desk_and_on_a_telephone(
    browser: Browser, url: dict[str, str], name: str
) -> None:
    for scheme in ("light", "dark"):
        browser.prefer(scheme)
        for width, height in ((1300, 900), (360, 740)):
            browser.resize(width, height)
            browser.visit(url[name])
            assert browser.evaluate("document.documentElement.clientWidth") == width
            assert browser.evaluate(WIDER) == 0
            assert browser.evaluate(OUTSIDE) == []
            assert browser.evaluate(CONTRAST) == []
            dark = browser.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
            assert dark is (scheme == "dark")
            # The page's own policy forbids nothing that is in it, and nothing else is asked for.
            assert browser.complaints == []
            assert {one for one in browser.requests if one != "about:blank"} == {url[name]}
    browser.prefer("light")


def test_what_is_wrong_stands_under_its_title(browser: Browser, url: dict[str, str]) -> None:
    browser.resize(1300, 900)
    browser.visit(url["well"])
    assert browser.evaluate(HEADINGS) == [
        "rulegen on node-1: ok",
        "Drift: 0 repairs of 0 entries",
        "Listeners",
        "Findings: 1 UnknownNode",
    ]
    browser.visit(url["long"])
    titles = browser.evaluate(HEADINGS)
    assert titles[0] == "rulegen on node-1: failing"
    assert "Files that cannot be read: 120" in titles
    assert "and 20 more" in browser.evaluate("document.body.textContent")


def test_names_do_nothing(browser: Browser, url: dict[str, str]) -> None:
    browser.visit(url["evil"])
    assert browser.evaluate("document.querySelectorAll('script, img, iframe, a, link').length") == 0
    assert "<script>alert('x')</script>" in browser.evaluate("document.body.textContent")
    assert browser.complaints == []
