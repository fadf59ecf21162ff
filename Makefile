# Work on rulegen. `make demo` and `make test` do all their set-up themselves; see docs/development.md.

.DELETE_ON_ERROR:
.PHONY: help install packages demo test test-all test-packages kernels check bench soak golden role schemas deb wheel site lock clean

# The distribution's Python, whose `nftables` module the virtual environment sees.
PYTHON := /usr/bin/python3
BIN := .venv/bin
INSTALLED := .venv/installed

# Twice as many tests side by side as there are processors: many of them wait most of their time, for the kernel, for an
# agent, or for what must not happen.
SIDE_BY_SIDE = --numprocesses $(shell expr $$(nproc) \* 2) --maxprocesses 16 --dist worksteal

# For root nothing is out of reach, so nothing may be skipped. Others load rules in a user namespace, where that is
# allowed; the loopback interface of a new network namespace is down.
ifeq ($(shell id -u),0)
PYTEST = $(BIN)/python -m pytest --fail-on-skip
else
IN_NAMESPACE := unshare -rn sh -c 'ip link set lo up && exec "$$@"' sh
PRIVILEGED = $(if $(shell unshare -rn true 2>/dev/null && echo yes),$(IN_NAMESPACE))
PYTEST = $(PRIVILEGED) $(BIN)/python -m pytest
endif

# Of `make soak`; without SEED each run takes another one.
SECONDS = 600
SEED =

# Of `make kernels`: Debian's kernels, and what pytest is told instead of its own choice.
KERNELS = 6.1 6.12
TESTS =

# Of `make deb`: releases of Debian, each built in a root of its own; none: this host's.
RELEASES =

# Of `make role`.
FEATURES =

help:
	@echo 'install  the command, at $(BIN)/rulegen'
	@echo 'demo     a playground in network namespaces of its own'
	@echo 'test     check, then every test, with a part of the large matrices'
	@echo 'test-all check, then every test, with all cases'
	@echo 'kernels  tests on kernels of Debian, emulated: KERNELS="6.1 6.12 newest", TESTS="tests/nftables -k churn"'
	@echo 'check    style, types and the import rules'
	@echo 'bench    the measurements'
	@echo 'soak     an agent in a cluster that changes and fails all the time, for SECONDS=600, SEED=number'
	@echo 'golden   rewrite the expected rulesets in golden/'
	@echo 'role     rewrite the rights in deploy/base/rulegen.yaml, for FEATURES="name ..." besides the usual ones'
	@echo 'schemas  rewrite docs/schemas from the structs of what -o json prints'
	@echo 'lock     choose the newest versions of the Python packages anew'
	@echo 'wheel    the Python package, wheel and sdist, in dist/'
	@echo 'deb      the Debian package, in dist/: RELEASES="bookworm trixie" for others than this host'"'"'s'
	@echo 'site     the documentation as a site, in build/site'
	@echo 'test-packages  installs, upgrades and removes these in fresh roots of Debian, and builds the image'
	@echo 'clean    remove what all of these made'

packages:
	@scripts/install-packages

install: packages $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt | packages
	$(PYTHON) -m venv --system-site-packages .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
	touch $@

demo: install
	$(BIN)/rulegen demo

test: check
	@scripts/install-packages tests
	$(PYTEST) $(SIDE_BY_SIDE)

test-all: check
	@scripts/install-packages tests
	$(PYTEST) $(SIDE_BY_SIDE) --exhaustive

# Only root can make another Debian. The tests are chosen as on a command line of pytest.
kernels: install
	scripts/install-packages kernels
	$(BIN)/python scripts/kernels.py $(KERNELS) $(if $(TESTS),-- $(TESTS))

check: install
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache --no-logo

bench: install
	@scripts/install-packages tests
	$(BIN)/python -m bench

soak: install
	$(PRIVILEGED) $(BIN)/python -m tests.soak --seconds $(SECONDS) $(if $(SEED),--seed $(SEED))

golden: install
	$(BIN)/rulegen golden update golden

wheel: install
	$(BIN)/python -m hatchling build -d dist

deb:
	scripts/install-packages deb
	$(PYTHON) scripts/deb.py $(RELEASES)

# The generator has its own environment: nothing else needs it.
site:
	test -x build/site-env/bin/zensical || { $(PYTHON) -m venv build/site-env && \
	    build/site-env/bin/pip install --quiet --disable-pip-version-check zensical==0.0.73; }
	$(PYTHON) scripts/site.py build/site-env/bin/zensical

# Needs root and the network, takes about twenty minutes.
test-packages: install
	scripts/install-packages deb tests test-packages
	$(BIN)/python -m pytest --packages tests/packages

role: install
	$(BIN)/python scripts/cluster_role.py $(FEATURES)

schemas: install
	$(BIN)/python scripts/schemas.py docs/schemas

# In an environment without the distribution's packages, so that the file names everything that is used.
lock:
	rm -rf build/lock
	$(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet --disable-pip-version-check '.[test]'
	build/lock/bin/python -m pip freeze --exclude rulegen > constraints.txt
	rm -rf build/lock

clean:
	rm -rf .venv build dist .cache .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -r {} +
