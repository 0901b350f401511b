# make run    start the service (HOST, PORT, DATABASE_URL, OPENAI_BASE_URL, ... change it: see README.md)
# make test   lint, types, line counts and all tests
# make lint   lint and types alone
# make faults FAULTS="--only zombie --seed 7"   the long pass of the faults, more than an hour (docs/reliability.md)
# make security SECURITY="--minutes 2 --only naughty"   the long pass of the attackers' tools, an hour (docs/security.md)
# make backup TO=FILE   copy the SQLite database while the service runs (docs/operations.md)
# make demo   fill an empty database with a made-up history of thousands of answers, to look at the pages
# make clean  remove the virtual environment; the data in instance/ stays
# Each does its own set-up, once: a stamp in .venv is older than a requirements file that has changed.

PYTHON ?= python3
CHROMIUM ?= $(shell command -v chromium || command -v chromium-browser || command -v google-chrome)
fail = { echo "llmstream: $(1)" >&2; exit 1; }
pip = .venv/bin/python -m pip install --no-deps --disable-pip-version-check -r $(1) >.venv/pip.log 2>&1 || \
	$(call fail,The packages could not be installed: see the end of .venv/pip.log and try again once that is put right.)

.PHONY: run demo test faults security lint backup clean chromium tools

run: .venv/installed
	@exec .venv/bin/python -m gunicorn

.venv/installed: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	$(call fail,Python 3.11 or newer is needed: install it or name one as in: make run PYTHON=python3.12.)
	@echo "llmstream: making a virtual environment in .venv"
	@.venv/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv >/dev/null 2>&1 || \
	$(call fail,Python's venv module is missing: install it (on Debian and Ubuntu: apt install python3-venv) and try again.)
	@echo "llmstream: installing Flask, gunicorn, the model and the rest into it (about 150 MB, only this once)"
	@$(call pip,requirements.txt)
	@touch $@

.venv/installed-dev: requirements-dev.txt .venv/installed
	@echo "llmstream: installing what the tests need"
	@$(call pip,requirements-dev.txt)
	@touch $@

backup: .venv/installed
	@test -n "$(TO)" || $(call fail,Say where to as in: make backup TO=llmstream-copy.db)
	@.venv/bin/python -m flask --app wsgi backup "$(TO)"

demo: .venv/installed
	@.venv/bin/python -m flask --app wsgi demo $(DEMO)

test faults security: export PYTHONDONTWRITEBYTECODE =# hundreds of processes are started: they keep what they compile

test: lint chromium tools
	@echo "Lines of Python in llmstream/:" && wc -l llmstream/*.py
	@CHROMIUM="$(CHROMIUM)" .venv/bin/python -m pytest -n 3 --dist loadscope -m "not alone"
	@CHROMIUM="$(CHROMIUM)" .venv/bin/python -m pytest -m alone

faults: tools .venv/installed-dev
	@.venv/bin/python -m tests.faults --long $(FAULTS)

security: .venv/installed-dev
	@nice -n 19 .venv/bin/python -m tests.security $(SECURITY)

lint: .venv/installed-dev
	@.venv/bin/ruff check .
	@.venv/bin/mypy

# The pages are tested in Chromium. Outside of CI their tests are left out where there is none.
chromium: .venv/installed-dev
	@test -n "$(CHROMIUM)" || { test "$$(id -u)" = 0 && apt-get update && apt-get install -y chromium; } >.venv/apt.log 2>&1 || \
	{ echo "llmstream: There is no Chromium: install it or name one as in make test CHROMIUM=/path/to/chrome" >&2; test -z "$$CI"; }

# A power cut is replayed from a trace (strace), a link goes down in a network namespace (ip). Outside of CI these are left out.
tools: .venv/installed-dev
	@{ command -v strace && command -v ip; } >/dev/null || \
	{ test "$$(id -u)" = 0 && apt-get update && apt-get install -y strace iproute2; } >.venv/apt.log 2>&1 || \
	{ echo "llmstream: strace or ip is missing: install the packages strace and iproute2 to test power cuts and links" >&2; test -z "$$CI"; }

clean:
	@rm -rf .venv
