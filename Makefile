# What there is to run. Everything works from a fresh clone: `make` fetches what a target needs into
# a cache that other clones reuse (scripts/fetch.py, pinned in native.json).

PORT ?= 8080
# The training run, its checkpoints and metrics; and how the shipped model of Fashion-MNIST was trained, whose data can be fetched.
RUN ?= runs/fashion-mnist
LABELS ?= models/fashion-mnist/labels.txt
SETTINGS ?= models/fashion-mnist/settings.json
ifndef MODEL
MODEL := models/cifar10
train search: MODEL := $(RUN)/model
endif
# How long each target is fuzzed.
FUZZ_S ?= 300
PYTHON ?= python3
TARGET := $(or $(CARGO_TARGET_DIR),target)
# The training binary has its own folder, so that it never replaces the one that serves.
TRAIN_TARGET := $(TARGET)/train
TRAIN_BIN := $(TRAIN_TARGET)/release/bignas

# Shell prefixes: the part is made sure of and named in the variable that its readers know.
fetch = $(PYTHON) scripts/fetch.py
onnxruntime = export ORT_DYLIB_PATH && ORT_DYLIB_PATH=$$($(fetch) onnxruntime) &&
libtorch = export LIBTORCH && LIBTORCH=$$($(fetch) libtorch) &&
axe_core = export BIGNAS_TEST_AXE_CORE && BIGNAS_TEST_AXE_CORE=$$($(fetch) axe-core) &&
fashion_mnist = export BIGNAS_TEST_FASHION_MNIST && BIGNAS_TEST_FASHION_MNIST=$$($(fetch) fashion-mnist) &&

# What the playground runs children with in a browser. A server without it lacks one button, so serving does not insist on it.
onnxruntime_web = export BIGNAS_ONNXRUNTIME_WEB && BIGNAS_ONNXRUNTIME_WEB=$$($(fetch) onnxruntime-web) &&
onnxruntime_web_if_possible = if web=$$($(fetch) onnxruntime-web); then export BIGNAS_ONNXRUNTIME_WEB="$$web"; \
	else echo "the playground will not run children in the browser" >&2; fi &&

.DEFAULT_GOAL := help
.PHONY: help serve build build-train test test-all test-gpu test-fetch test-rust test-serving test-onnx test-kubernetes test-browser \
	test-artefact-store test-image fuzz \
	screenshots lint openapi bench bench-load bench-serving bench-train fetch data train search clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

serve: ## Serve a model on 127.0.0.1 (MODEL=models/cifar10 PORT=8080)
	@$(onnxruntime) $(onnxruntime_web_if_possible) cargo build --release --locked && \
	exec $(TARGET)/release/bignas serve --model "$(MODEL)" --port "$(PORT)"

build: ## Build the serving binary, target/release/bignas (needs no libtorch)
	cargo build --release --locked

build-train: ## Build the binary that also trains, target/train/release/bignas
	@$(libtorch) $(onnxruntime) cargo build --release --locked --features train --target-dir "$(TRAIN_TARGET)"

test: test-fetch fetch lint test-rust test-serving test-onnx ## Check all that must hold, as CI does

test-gpu: ## Check what needs a GPU, with CUDA and TensorRT where the loader finds them (ORT_DYLIB_PATH: another ONNX Runtime; LIBTORCH: one with CUDA, to train)
	@if [ -z "$$ORT_DYLIB_PATH" ]; then gpu=$$($(fetch) onnxruntime-gpu) || exit 1; export ORT_DYLIB_PATH="$$gpu/libonnxruntime.so"; fi; \
	train=; if [ -e "$$LIBTORCH/lib/libtorch_cuda.so" ]; then train="--features train"; fi; \
	cargo test --locked $$train --test gpu -- --include-ignored --test-threads 1

test-all: test test-kubernetes test-browser test-artefact-store fuzz test-image ## The same, then the tests that take long (one needs Debian's package prometheus)
	@$(onnxruntime) $(libtorch) $(fashion_mnist) cargo test --all-features --locked --tests -- --ignored --skip agrees_with_the_processor --skip what_tensorrt_compiled --skip a_gpu_trains

test-fetch: ## Test the fetch script, offline
	$(PYTHON) -B scripts/test_fetch.py

test-rust: ## Run every test with every feature
	@$(onnxruntime) $(libtorch) $(fashion_mnist) cargo test --all-features --locked

test-serving: ## Build without features and check that the binary carries no libtorch
	cargo build --locked
	@if cargo tree --locked --edges normal --prefix none | grep -E '^(tch|torch-sys) '; then \
		echo "error: the serving binary depends on libtorch; keep tch behind the feature train" >&2; exit 1; fi
	@libraries=$$(ldd $(TARGET)/debug/bignas) || exit 1; \
	if echo "$$libraries" | grep -E 'libtorch|libc10'; then \
		echo "error: the serving binary links libtorch; keep tch behind the feature train" >&2; exit 1; fi
	@for command in train "analyze from-scratch"; do \
		if ! $(TARGET)/debug/bignas $$command 2>&1 | grep -q 'does not train.*make build-train'; then \
		echo "error: the serving binary does not say where to find bignas $$command" >&2; exit 1; fi; done
	@echo "the serving binary carries no libtorch"

test-onnx: ## Check exported children with the ONNX checker and stock ONNX Runtime
	cargo build --locked
	@$(onnxruntime) $(PYTHON) -B scripts/check_onnx.py $(TARGET)/debug/bignas

test-kubernetes: ## Check docker/kubernetes against the published schemas, and against the program
	$(PYTHON) -B scripts/check_kubernetes.py

test-browser: ## Click through the playground in a headless Chromium (Debian packages, installed where root may)
	scripts/install_browser.sh
	cargo build --locked
	@$(onnxruntime) $(onnxruntime_web) $(axe_core) $(PYTHON) -B tests/playground $(TARGET)/debug/bignas

test-artefact-store: ## Let servers share children through a store of S3's kind (moto's)
	cargo build --locked
	@$(onnxruntime) $(PYTHON) -B scripts/check_artefact_store.py $(TARGET)/debug/bignas

fuzz: ## Fuzz the decoders and the requests, FUZZ_S=300 seconds each (cargo-fuzz and a nightly toolchain, installed with rustup)
	@$(onnxruntime) scripts/fuzz.sh $(FUZZ_S)

test-image: ## Follow docker/Dockerfile in bare Debian roots, and run what comes of it (root only; takes minutes)
	$(PYTHON) -B scripts/check_image.py

screenshots: build ## Write the playground's screenshots in docs/, from the binary that serves
	scripts/install_browser.sh
	@$(onnxruntime) $(onnxruntime_web) $(axe_core) BIGNAS_SCREENSHOTS=docs \
	$(PYTHON) -B tests/playground $(TARGET)/release/bignas test_page.Playground.test_axe_finds_nothing_and_the_screenshots_are_taken

lint: ## Formatting, clippy and rustdoc, with warnings as errors; the dashboard against its source
	cargo fmt --check
	cargo fmt --manifest-path fuzz/Cargo.toml --check
	$(PYTHON) -B docker/grafana/dashboard.py --check
	@$(libtorch) cargo clippy --all-targets --all-features --locked -- -D warnings
	@$(libtorch) RUSTDOCFLAGS="-D warnings" cargo doc --all-features --no-deps --locked

openapi: ## Write openapi/openapi.json from the code
	@mkdir -p openapi
	cargo run --locked --quiet -- openapi > openapi/openapi.json.new
	mv openapi/openapi.json.new openapi/openapi.json

bench: build ## Run the benchmarks
	@$(onnxruntime) cargo bench --locked && $(PYTHON) -B bench/imagenet_memory.py $(TARGET)/release/bignas

bench-serving: build ## Compare serving with FastAPI, LitServe, BentoML and MLServer (docs/performance.md)
	cargo build --release --locked --example in_process
	@$(onnxruntime) $(PYTHON) -B bench/serving.py $(TARGET)/release/bignas $(TARGET)/release/examples/in_process

bench-load: build ## Measure serving under load: queueing, overload, bursts, builds, hostile clients, memory, panics, soak (PHOTO=FILE)
	@test -f "$(PHOTO)" || { echo "error: name a photograph to send: make bench-load PHOTO=FILE" >&2; exit 2; }
	@$(onnxruntime) $(PYTHON) -B bench/under_load.py $(TARGET)/release/bignas --photo "$(PHOTO)" --output runs/load

bench-train: build-train ## Compare training with eager PyTorch (PYTORCH=an interpreter with torch 2.13.0)
	@"$(PYTORCH)" -c "import torch" || { echo "error: name an interpreter with torch: make bench-train PYTORCH=PYTHON" >&2; exit 2; }
	@$(PYTHON) -B bench/training.py $(TRAIN_BIN) "$(PYTORCH)"

fetch: ## Fetch ONNX Runtime, libtorch and Fashion-MNIST into the per-user cache
	@$(fetch) onnxruntime && $(fetch) libtorch && $(fetch) fashion-mnist

data: ## Print the folder that holds Fashion-MNIST
	@$(fetch) fashion-mnist

train: build-train ## Train on Fashion-MNIST as models/fashion-mnist was, or go on with the run in RUN (hours)
	@if ls "$(RUN)/checkpoints" 2>/dev/null | grep -q ^step-; then start=--resume; else \
	start="--space fashion-mnist --labels $(LABELS) --settings $(SETTINGS) --pad 1 --no-flip --auto-augment none"; fi; \
	$(onnxruntime) $(fashion_mnist) OMP_WAIT_POLICY=passive \
	$(TRAIN_BIN) train --model "$(MODEL)" --run "$(RUN)" --data "$$BIGNAS_TEST_FASHION_MNIST" $$start

search: build ## Search what `make train` trained for its family, as models/fashion-mnist was
	@$(onnxruntime) $(fashion_mnist) \
	$(TARGET)/release/bignas search --model "$(MODEL)" --data "$$BIGNAS_TEST_FASHION_MNIST" --dataset Fashion-MNIST \
	--images 4096 --budgets 80 --mutations 5

clean: ## Remove what was built here (the cache of fetched parts stays)
	cargo clean
