"""What `make kernels` does before a guest starts; guests themselves take minutes, and are never part of these tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
SCRIPTS = REPOSITORY / "scripts"


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)


def of_script(expression: str) -> list[str]:
    """The lines of what an expression with the script's names says."""
    code = f"import sys; sys.path.insert(0, {str(SCRIPTS)!r}); from kernels import *; print(*{expression}, sep='\\n')"
    done = run(sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_what_is_run_without_a_choice_is_there() -> None:
    tests = of_script("TESTS")
    found = run(sys.executable, "-m", "pytest", "--collect-only", "-q", *tests)
    assert found.returncode == 0, found.stdout
    for name in ("test_churn", "test_golden_kernel", "conntrack", "flows", "iptables"):
        assert name in found.stdout


def test_a_kernel_that_is_not_known_is_named_with_those_that_are() -> None:
    done = run(SCRIPTS / "kernels.py", "6.1", "5.10")
    assert done.returncode == 2
    assert "'5.10'" in done.stderr
    assert all(kernel in done.stderr for kernel in of_script("RELEASES"))


def test_a_guest_has_what_rulegen_and_tests_import_and_nothing_that_must_be_compiled() -> None:
    packages = of_script("python_packages()")
    assert {"click", "msgspec", "pytest", "pytest-xdist", "hypothesis"} <= {name.split(">")[0] for name in packages}
    assert not [name for name in packages if name.startswith(("python-iptables", "mypy"))]


def test_the_first_process_of_a_guest_is_a_script() -> None:
    assert run("sh", "-n", SCRIPTS / "guest-init").returncode == 0
    assert run("sh", "-n", SCRIPTS / "install-packages").returncode == 0
