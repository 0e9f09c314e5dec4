# Everything a developer needs; each target sets up what it uses.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
NATIVE := dumper/kernel/_native.abi3.so

.PHONY: setup compiled test reliability fuzz stress demo lint types schemas proto bench clean
setup: compiled

$(VENV)/.tools: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "pip>=25.1"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group dev
	@touch $@

$(READY): $(VENV)/.tools setup.py $(wildcard dumper/kernel/csrc/*) dumper/kernel/_build.py
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

# Commands start as soon as those of an installed predump, also where Python is told to write no bytecode.
compiled: $(READY)
	$(BIN)/python -m compileall -q cli.py $(patsubst %/__init__.py,%,$(wildcard */__init__.py))

test: compiled redis gdb filesystems clang network jq crit browser programs
	$(BIN)/python -m pytest -n auto

# How long each open-ended test goes on.
SECONDS ?= 600
reliability: $(READY) redis gdb filesystems clang network
	$(BIN)/python -m tests.reliability $(SECONDS)

# Damaged and crafted images, at random for SECONDS in all: tests/fuzz/test_damage.py says how to run one case again.
fuzz: $(READY)
	$(BIN)/python -m pytest tests/fuzz --seconds=$(SECONDS)

# Random sequences of operations and commands, and a death at each point of each command.
stress: $(READY)
	$(BIN)/python -m pytest tests/stress tests/crash --thorough --seconds=$(SECONDS)

demo: $(READY)
	$(BIN)/python -m tests.demo

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

# Again after a field of an event or a result has changed.
schemas: $(READY)
	$(BIN)/python -m commands.schemas

# Again after a message of CRIU's images has changed.
proto: $(READY)
	$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. formats/criu/images.proto

bench: compiled
	$(BIN)/python -m benchmarks

# Real targets for the tests. Where they cannot be installed, the tests that need them are skipped and say so.
.PHONY: redis gdb filesystems clang network jq crit browser programs
redis:
	@command -v redis-server redis-benchmark >/dev/null || { \
		echo "installing redis-server"; \
		(apt-get update && RUNLEVEL=1 apt-get install --yes redis-server) >/dev/null 2>&1; \
	} || echo "redis-server cannot be installed here: its tests will be skipped"

gdb:
	@{ command -v gdb && command -v readelf; } >/dev/null || { \
		echo "installing gdb and binutils"; \
		(apt-get update && apt-get install --yes gdb binutils) >/dev/null 2>&1; \
	} || echo "gdb cannot be installed here: its tests will be skipped"

filesystems:
	@{ command -v mkfs.ext4 && command -v mkfs.btrfs && command -v mkfs.xfs; } >/dev/null || { \
		echo "installing e2fsprogs, btrfs-progs and xfsprogs"; \
		(apt-get update && apt-get install --yes --no-install-recommends e2fsprogs btrfs-progs xfsprogs) >/dev/null 2>&1; \
	} || echo "btrfs-progs or xfsprogs cannot be installed here: their tests will be skipped"

# Two hosts in network namespaces.
network:
	@{ command -v ip && command -v tc; } >/dev/null || { \
		echo "installing iproute2"; \
		(apt-get update && apt-get install --yes --no-install-recommends iproute2) >/dev/null 2>&1; \
	} || echo "iproute2 cannot be installed here: tests with two hosts will be skipped"

# Recipes of docs/pipelines.md use it.
jq:
	@command -v jq >/dev/null || { \
		echo "installing jq"; \
		(apt-get update && apt-get install --yes --no-install-recommends jq) >/dev/null 2>&1; \
	} || echo "jq cannot be installed here: tests of some recipes will be skipped"

# It opens what `predump report` makes.
browser:
	@command -v chromium >/dev/null || { \
		echo "installing chromium"; \
		(apt-get update && apt-get install --yes --no-install-recommends chromium) >/dev/null 2>&1; \
	} || echo "chromium cannot be installed here: tests of reports in a browser will be skipped"

# They come back to life: a server with workers, and a virtual machine.
programs:
	@{ command -v nginx && command -v javac; } >/dev/null || { \
		echo "installing nginx-light and default-jdk-headless"; \
		(apt-get update && RUNLEVEL=1 apt-get install --yes --no-install-recommends nginx-light default-jdk-headless) \
			>/dev/null 2>&1; \
	} || echo "nginx-light or default-jdk-headless cannot be installed here: their tests will be skipped"

# CRIU's own tool reads what is exported for it. It comes with criu, in newer distributions in a package of its own.
crit:
	@command -v crit >/dev/null || { \
		echo "installing crit"; \
		(apt-get update && { apt-get install --yes --no-install-recommends crit || \
		 apt-get install --yes --no-install-recommends criu; }) >/dev/null 2>&1; \
	} || echo "crit cannot be installed here: tests of what it reads will be skipped"

# Its MemorySanitizer, which gcc does not have. The second package's name has a version in it.
clang:
	@command -v clang >/dev/null || { \
		echo "installing clang"; \
		(apt-get update && apt-get install --yes --no-install-recommends clang && \
		 apt-get install --yes --no-install-recommends "libclang-rt-$$(clang -dumpversion | cut -d. -f1)-dev") >/dev/null 2>&1; \
	} || echo "clang cannot be installed here: its test will be skipped"

clean:
	rm -rf $(VENV) build dist *.egg-info dumper/kernel/_native*.so tests/targets/bin
