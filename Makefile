PYTHON ?= python3
BIN := .venv/bin
RUN := demo_run
LOWEST := .venv-lowest/bin/python
# What uses other packages most, and takes little time.
LOWEST_TESTS := tests/imaging tests/generators tests/cli tests/evaluation tests/test_align.py \
  tests/test_search.py tests/test_golden.py tests/test_drive.py tests/test_drive_failures.py \
  tests/fast/test_choose.py tests/fast/test_device.py tests/fast/test_precision.py

.PHONY: demo app bench test lowest lint flags stress clean

# A photograph in, imaginary faces out: ends by saying where the picture is that shows them.
demo: .venv/installed
	$(BIN)/python demo/photograph.py $(RUN)/photographs
	$(BIN)/python align_face.py -input_dir $(RUN)/photographs -output_dir $(RUN)/input -output_size 16
	$(BIN)/python run.py -input_dir $(RUN)/input -output_dir $(RUN)/results -generator demo \
	  -search quick -duplicates 4 -seed 0 -sheet -animation gif -overwrite

# A page in the browser: drop a photograph, watch the search. Ctrl-C ends it.
app: .venv/app-installed
	$(BIN)/python demo/app.py -open

# How fast a search is here; let nothing else run. Five minutes on two cores, more on slow ones.
bench: .venv/installed
	$(BIN)/python bench.py

# Two files of tests at a time, each with one thread; then the tests that must end within seconds.
# Hundreds of processes start sooner with bytecode that is kept, where the environment forbids that.
test: export PYTHONDONTWRITEBYTECODE =
test: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder \
	  -m "not slow and not timed"
	$(BIN)/python -m pytest -m timed $$(grep -rl --include='test_*.py' mark.timed tests)

# The lower bounds of requirements.txt hold: quick tests with the lowest version of each of them.
lowest: .venv-lowest/installed
	$(LOWEST) -m pytest --ignore tests/evaluation/test_report_in_browser.py \
	  --ignore tests/generators/test_hostile_weights.py $(LOWEST_TESTS)

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# docs/flags.md, from the commands' own parsers.
flags: .venv/installed
	$(BIN)/python docs/write_flags.py

# Time and memory, printed: figures, not tests. Then the tests that take minutes each.
stress: .venv/app-installed
	$(BIN)/python tests/stress.py
	$(BIN)/python tests/stress_evaluate.py
	$(BIN)/python tests/stress_readers.py
	$(BIN)/python tests/stress_page.py
	$(BIN)/python -m pytest -m slow

clean:
	rm -rf .venv .venv-lowest $(RUN)

# Installs once, and again only where requirements.txt has changed.
.venv/installed: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "Python 3.10 or newer is needed; name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -r requirements.txt
	touch $@

.venv/app-installed: .venv/installed requirements-app.txt
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -r requirements-app.txt
	touch $@

.venv-lowest/installed: requirements.txt
	$(PYTHON) -m venv .venv-lowest
	sed 's/>=/==/' requirements.txt > .venv-lowest/lowest.txt
	$(LOWEST) -m pip install --disable-pip-version-check --quiet -r .venv-lowest/lowest.txt
	touch $@
