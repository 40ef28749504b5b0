# make demo   sets up .venv and runs the main job on real data
# make test   sets up .venv and runs the tests
# Both need Python 3.11 or later with pip and a C compiler, nothing else.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready

.PHONY: demo test clean

demo: $(READY)
	$(BIN)/python examples/demo.py

test: $(READY)
	$(BIN)/python -m pytest -n 2

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

clean:
	rm -rf .venv build *.egg-info
