# `make demo` and `make test` need Python 3.11 with its venv module; everything else they install
# into .venv. A second call reuses what the first one finished.

PYTHON ?= python3.11
JOBS ?= 2

# Of `make demo`. Three seeds: make demo SEED=1 DEMO_DIR=runs/demo_1, ...
SEED ?= 0
STEPS ?= 15000
EPISODES ?= 100
DEMO_DIR ?= runs/demo
DEMO_DATA_DIR ?= runs/demo/data
DATASET_EPISODES ?= 2500

BIN := .venv/bin
INSTALLED_PACKAGES := .venv/installed-packages
INSTALLED := .venv/installed-project

# Independent stages run side by side, each with one thread for a TensorFlow operation.
MAKEFLAGS += --jobs=$(JOBS)
# TensorFlow complains of a missing GPU otherwise.
export TF_CPP_MIN_LOG_LEVEL ?= 3

# Of `make drawer` and `make table`.
SEEDS ?= 1
TABLE_DIR ?= runs/table_1
TABLE_DATA_DIR ?= runs/data

.PHONY: help demo drawer table test cluster flink job-server prism lint lock clean
.DELETE_ON_ERROR:

help:
	@echo 'make demo   build small datasets, train and evaluate on them, write $(DEMO_DIR)/report.html'
	@echo 'make drawer COG and no prior on the drawer task, from state, $(TABLE_DIR)/report.html'
	@echo 'make table  all of Table 1, from state'
	@echo 'make test   run the tests'
	@echo 'make cluster get what a cluster on this machine needs: Flink, its job server, Prism'
	@echo 'make lint   check the style'
	@echo 'make lock   resolve requirements.in to requirements.txt anew'
	@echo 'make clean  remove .venv and caches; runs/ stays'

# ---- .venv ----

# The last command of each rule marks it as finished: an interrupted set-up starts anew.
$(INSTALLED_PACKAGES): requirements.txt
	@$(PYTHON) -c '' 2>/dev/null || { echo >&2 \
	  'COG needs Python 3.11, and there is no command $(PYTHON). Install it' \
	  '(Debian 12: apt-get install python3.11 python3.11-venv)' \
	  'or say where it is: make PYTHON=/path/to/python3.11'; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo >&2 \
	  "COG needs Python 3.11, and $(PYTHON) is $$($(PYTHON) --version 2>&1):" \
	  'TF-Agents needs TensorFlow 2.15, which no later Python runs.' \
	  'Say where Python 3.11 is: make PYTHON=/path/to/python3.11'; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo >&2 \
	  '$(PYTHON) lacks its venv module. Install it' \
	  '(Debian 12: apt-get install python3.11-venv)'; exit 1; }
	$(PYTHON) -m venv --clear .venv
	@$(BIN)/python -m pip install --disable-pip-version-check --no-deps -r requirements.txt || { \
	  echo >&2 'pip could not install requirements.txt into .venv: its own message is above.' \
	  'It needs a package index (PyPI, or PIP_INDEX_URL) and 3 GB of disk. Then call make again.'; \
	  exit 1; }
	@touch $@

$(INSTALLED): $(INSTALLED_PACKAGES) pyproject.toml
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps \
	  --no-build-isolation --editable .
	@touch $@

# ---- tests ----

test: $(INSTALLED)
	$(BIN)/python -m pytest --numprocesses=$(JOBS) --dist=loadfile

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# ---- cluster ----

# What pipelines/README.md runs jobs on, each useful without the others: make --keep-going cluster.
cluster: flink job-server prism

flink: $(INSTALLED)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps \
	  apache-flink-libraries==$$($(BIN)/python -c 'from pipelines import flink; print(flink.VERSION)')

job-server: flink
	mvn --batch-mode --quiet dependency:get -Dtransitive=false \
	  -Dartifact=$$($(BIN)/python -c 'from pipelines import flink; print(flink.find().job_server)')

prism: $(INSTALLED)
	go install github.com/apache/beam/sdks/v2/go/cmd/prism@v$$($(BIN)/python -c \
	  'import apache_beam; print(apache_beam.__version__)')

# ---- demo ----

DATASETS := cog_pickplace_prior cog_pickplace_task
METHODS := cog no_prior bc

# What is finished, with what it was made of in its name: other values are not passed over.
DEMO_CONFIG := demo_$(DATASET_EPISODES)
BUILT := $(DATASETS:%=$(DEMO_DATA_DIR)/%-$(DEMO_CONFIG).built)
TRAINED := $(METHODS:%=$(DEMO_DIR)/%/trained-$(DEMO_CONFIG)-seed_$(SEED)-$(STEPS))
EVALUATED := $(TRAINED:%=%-evaluated-$(EPISODES))

demo: $(EVALUATED) $(DEMO_DIR)/stitching.json
	@$(BIN)/python -m cog_agents.report_main --root_dir=$(DEMO_DIR) --out=$(DEMO_DIR)/report.html

$(BUILT): $(DEMO_DATA_DIR)/%-$(DEMO_CONFIG).built: | $(INSTALLED)
	$(BIN)/tfds build $* --imports=cog_datasets.register --data_dir=$(DEMO_DATA_DIR) \
	  --config='{"name": "$(DEMO_CONFIG)", "num_episodes": $(DATASET_EPISODES)}'
	@touch $@

# Whether the data connect is worth knowing before a training; where it cannot be told, it trains.
$(TRAINED): $(DEMO_DIR)/%/trained-$(DEMO_CONFIG)-seed_$(SEED)-$(STEPS): \
    $(BUILT) | $(DEMO_DIR)/stitching.json
	$(BIN)/python -m cog_agents.train_main --data_dir=$(DEMO_DATA_DIR) \
	  --prior=cog_pickplace_prior/$(DEMO_CONFIG) --task=cog_pickplace_task/$(DEMO_CONFIG) \
	  --environment=place_in_tray --method=$* --observation=state \
	  --seed=$(SEED) --steps=$(STEPS) --threads=1 --run_dir=$(DEMO_DIR)/$*
	@touch $@

$(DEMO_DIR)/stitching.json: $(BUILT)
	-$(BIN)/python -m cog_agents.stitching_main --data_dir=$(DEMO_DATA_DIR) \
	  --prior=cog_pickplace_prior/$(DEMO_CONFIG) --task=cog_pickplace_task/$(DEMO_CONFIG) --out=$@

$(EVALUATED): %-evaluated-$(EPISODES): %
	$(BIN)/python -m cog_agents.evaluate_main --run_dir=$(@D) \
	  --environment=place_in_tray --episodes=$(EPISODES)
	$(BIN)/python -m cog_agents.evaluate_main --run_dir=$(@D) \
	  --environment=place_in_tray_held --episodes=$(EPISODES)
	@touch $@

# ---- tables ----

REPRODUCE = $(BIN)/python -m cog_agents.reproduce_main --seeds=$(SEEDS) --jobs=$(JOBS) \
  --root_dir=$(TABLE_DIR) --data_dir=$(TABLE_DATA_DIR)

drawer: $(INSTALLED)
	@$(REPRODUCE) --table=1 --methods=cog,no_prior \
	  --rows=drawer_open,drawer_closed,drawer_blocked_1,drawer_blocked_2

table: $(INSTALLED)
	@$(REPRODUCE) --table=1

# ---- upkeep ----

lock: $(INSTALLED)
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet --upgrade --python-version 3.11 requirements.in -o requirements.txt

clean:
	rm -rf .venv .pytest_cache .ruff_cache cog.egg-info
