# make demo    simulate a small survey and run everything on it, in ./demo
# make test    the tests, with the branch coverage of tasks/
# make lint    style, types, import directions, and the documentation with warnings as errors
# make docs    the documentation, in docs/_build/html
# make bench   wall time of every stage of a demo from scratch, one line of JSON at the end
# make bench-scaling   the same exposures on 1 and 2 workers, with and without Dask
# make peers   the packages that benchmarks compare with, in ./.peers, each in an environment of its own
# make bench-dq   dq_init beside jwst's DQInitStep: identical flags, times, memory; one line of JSON at the end
# make bench-resample   Resample beside stcal's: the same numbers, times, memory; one line of JSON at the end
# make bench-coadd   the coadd stage on a whole tile: times and memory on one and two threads; one line of JSON at the end
# make screenshots   the test that drives the Prefect UI; keeps its pictures in docs/figures/ui
# make faults  kills, restarts, broken networks, bursts of arrivals and a night, in full; one line of JSON at the end
# make clean   remove what the other targets made
#
# The first target sets up .venv, and again when pyproject.toml or constraints.txt change.
# Another interpreter: make PYTHON=python3.12 demo

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
# more than two cores need, because many tests wait for servers
TEST_PROCESSES ?= 3

.PHONY: demo test lint style types docs bench bench-scaling bench-dq bench-resample bench-coadd peers faults screenshots clean

demo: $(READY)
	$(BIN)/shearline demo --root demo

test: $(READY)
	$(BIN)/python -m pytest -m "not faults" -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder --cov --cov-report=term --cov-fail-under=80

lint: $(READY)
	@$(MAKE) --no-print-directory --output-sync -j2 docs types style

style: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(READY)
	$(BIN)/mypy

docs: $(READY)
	$(BIN)/python -m sphinx -W --keep-going -q -b html -d docs/_build/doctrees docs docs/_build/html

bench: $(READY)
	$(BIN)/python benchmarks/stages.py

bench-scaling: $(READY)
	$(BIN)/python benchmarks/scaling.py

peers: .peers/jwst/.ready .peers/stcal/.ready

.peers/%/.ready: benchmarks/peers/%.txt
	$(PYTHON) -m venv .peers/$*
	.peers/$*/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

bench-dq: $(READY) .peers/jwst/.ready
	$(BIN)/python benchmarks/dq.py

bench-resample: $(READY) .peers/stcal/.ready
	$(BIN)/python benchmarks/resample.py

bench-coadd: $(READY)
	$(BIN)/python benchmarks/coadd.py

faults: $(READY)
	$(BIN)/python benchmarks/faults.py

screenshots: $(READY)
	SHEARLINE_SCREENSHOTS=$(CURDIR)/docs/figures/ui $(BIN)/python -m pytest tests/ui --basetemp "$$(mktemp -d -t shearline-XXXX)"

clean:
	rm -rf .venv .peers demo build dist *.egg-info docs/_build docs/api/generated .coverage .coverage.* \
		.pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Shearline needs Python 3.11 or newer, and this is " + sys.version.split()[0] + ": try make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]' -c constraints.txt
	@touch $@
