# Everything a newcomer needs: `make quickstart` and `make test` set themselves up.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
PIP := .venv/bin/pip --disable-pip-version-check -qq
TORCH := torch==2.13.0+cpu
READY := .venv/.ready

.PHONY: setup quickstart test thorough bench lint clean

setup: $(READY)

# Exact versions, nothing resolved. The CPU wheel of torch comes from wherever pip finds it (a find-links folder),
# else from PyTorch's own index, with a short limit where that cannot be reached. DeepSpeed is built against torch.
$(READY): pyproject.toml cluster/requirements-cpu.txt
	@echo "Setting up .venv (about three minutes the first time) ..."
	@$(PYTHON) -m venv --clear .venv
	@$(PIP) install --no-deps "$(TORCH)" 2>/dev/null \
	  || $(PIP) install --no-deps --timeout 20 --retries 1 --index-url https://download.pytorch.org/whl/cpu "$(TORCH)" \
	  || { echo "error: no wheel of $(TORCH) was found. Put it into a folder and set PIP_FIND_LINKS to it."; exit 1; }
	@$(PIP) install --no-deps -r cluster/requirements-cpu.txt
	@DS_BUILD_OPS=0 $(PIP) install --no-deps --no-build-isolation deepspeed==0.19.6
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $(READY)

quickstart: $(READY)
	.venv/bin/python pipelines/grpo.py
	.venv/bin/python pipelines/serve.py --model runs/quickstart/judge --try

test: $(READY)
	.venv/bin/python -m pytest

thorough: $(READY)
	.venv/bin/python -m pytest -m thorough

bench: $(READY)
	.venv/bin/python tests/benchmarks/bench.py

lint: $(READY)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

clean:
	rm -rf .venv build *.egg-info
