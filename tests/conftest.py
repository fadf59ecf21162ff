"""What all tests share: the `kernel` marker, how much is tried, and how patient tests are.

`--fail-on-skip` is for hosts where nothing may be left out.
"""

from __future__ import annotations

import functools
import os
import platform
import signal
import subprocess
import tempfile
from collections.abc import Generator

import pytest
from hypothesis import HealthCheck, settings

from tests.patience import FACTOR, be_patient
from tests.pictures.browser import program
from tests.selection import Extent, choose, left_out

pytest_plugins = ["tests.lab.fixtures"]

# How long an example takes says something about the machine alone. The examples are the same ones each time, as is the
# part of the matrices; with `--exhaustive` they are new ones.
settings.register_profile("new examples", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("same examples", settings.get_profile("new examples"), derandomize=True)
settings.load_profile("same examples")

# Each process of tests has a lock of its own for legacy iptables: others hold the host's, and tests hold theirs. A name
# is read once, when rulegen is imported.
_LOCK_FOLDER = tempfile.TemporaryDirectory(prefix="rulegen-tests-")
os.environ["XTABLES_LOCKFILE"] = f"{_LOCK_FOLDER.name}/xtables.lock"

_PROBE = "add table inet probe; add chain inet probe nat { type nat hook prerouting priority -100; }"


@functools.cache
def kernel_gap() -> str | None:
    """Why this host cannot run tests marked `kernel`, or None when it can.

    Tried in a network namespace of its own, with the one thing all of them need: a nat chain that nft loads.
    """
    try:
        probe = subprocess.run(
            ["unshare", "--net", "nft", _PROBE], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return None if probe.returncode == 0 else probe.stderr.strip().splitlines()[0]


@functools.cache
def user_namespace_gap() -> str | None:
    """Why this host cannot run tests marked `user_namespace`: to nobody inside a chroot does the kernel give one."""
    command = ["unshare", "--user", "--map-root-user", "--net", "true"]
    probe = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return None if probe.returncode == 0 else probe.stderr.strip()


@functools.cache
def ipvs_gap() -> str | None:
    """Why this kernel has no IPVS with dummy interfaces, as kube-proxy's mode ipvs uses them."""
    script = "ip link add probe type dummy && test -e /proc/net/ip_vs"
    probe = subprocess.run(
        ["unshare", "--net", "sh", "-c", script], capture_output=True, text=True, timeout=30, check=False
    )
    return None if probe.returncode == 0 else probe.stderr.strip() or "ip_vs is not loaded"


@functools.cache
def flowtables_gap() -> str | None:
    """Why this kernel has no flowtables, or not the expression that fills them."""
    script = "add table inet p; add flowtable inet p f { hook ingress priority 0; }; add chain inet p c; "
    script += "add rule inet p c flow add @f"
    probe = subprocess.run(["unshare", "--net", "nft", script], capture_output=True, text=True, timeout=30, check=False)
    return None if probe.returncode == 0 else probe.stderr.strip().splitlines()[0]


@functools.cache
def browser_gap() -> str | None:
    """Why nobody can be asked to install one: Ubuntu's packages have none."""
    is_ubuntu = platform.freedesktop_os_release()["ID"] == "ubuntu"
    return "Ubuntu has Chromium as a snap alone" if is_ubuntu and program() is None else None


_CAPABILITIES = {
    "browser": browser_gap,
    "flowtables": flowtables_gap,
    "ipvs": ipvs_gap,
    "user_namespace": user_namespace_gap,
}


def _missing(item: pytest.Item) -> str | None:
    """What the kernel, or the distribution, lacks that the test is marked to need."""
    gaps = (
        f"no {name}: {gap}" for name, find in _CAPABILITIES.items() if item.get_closest_marker(name) and (gap := find())
    )
    return next(gaps, None)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fail-on-skip",
        action="store_true",
        help="a skipped test is a failure, unless the kernel has no nf_tables or allows no namespace",
    )
    parser.addoption("--packages", action="store_true", help="tests that make other Debians, too")
    parser.addoption("--exhaustive", action="store_true", help="all cases of the large matrices, not a part of them")
    parser.addoption("--part-seed", type=int, default=0, metavar="N", help="chooses the part of the large matrices")
    parser.addoption("--one-in", type=int, default=1, metavar="N", help="of each test's cases so many times less")
    parser.addoption(
        "--patience",
        type=float,
        default=FACTOR,
        metavar="TIMES",
        help="tests wait so many times as long as on an idle machine for what must come (default: %(default)s)",
    )


def pytest_configure(config: pytest.Config) -> None:
    # What is started in the background has SIGINT ignored, and so would be what the tests start and interrupt.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    be_patient(config.getoption("patience"))
    choose(config.getoption("one_in"))
    if config.getoption("exhaustive"):
        settings.load_profile("new examples")


def pytest_report_header(config: pytest.Config) -> str:
    return f"tried: {Extent.of(config)}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # A case that is named is meant.
    is_named = any("::" in argument for argument in config.args)
    dropped = [] if is_named else left_out(items, Extent.of(config))
    if not config.getoption("packages"):
        dropped += [item for item in items if item.get_closest_marker("packages")]
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        gone = set(dropped)
        items[:] = [item for item in items if item not in gone]


@pytest.fixture(scope="session")
def extent(request: pytest.FixtureRequest) -> Extent:
    """For tests that make their many cases themselves."""
    return Extent.of(request.config)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("kernel") and (gap := kernel_gap()):
        pytest.skip(f"no nf_tables in a network namespace here: {gap}")
    if gap := _missing(item):
        pytest.skip(f"this host has {gap}")


def _skips_refused(config: pytest.Config) -> bool:
    return bool(config.getoption("fail_on_skip")) and kernel_gap() is None


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turns a skipped report into a failed one, so that the closing line counts it."""
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    report.outcome = "failed"
    report.longrepr = f"{reason} (refused by --fail-on-skip)"


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    is_out_of_reach = _missing(item)
    if _skips_refused(item.config) and report.skipped and not (hasattr(report, "wasxfail") or is_out_of_reach):
        _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if _skips_refused(collector.config) and report.skipped:
        _refuse_skip(report)
    return report
