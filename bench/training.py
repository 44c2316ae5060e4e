#!/usr/bin/env python3
"""Compare the speed of `bignas train` with that of an eager PyTorch loop over the same space, batch and threads.

    training.py BIGNAS PYTHON [--steps 60] [--rounds 3] [--threads 2] [--batch-size 128]

BIGNAS is the training binary (`make build-train`), PYTHON an interpreter that has PyTorch 2.13.0 from its wheel:
`python3 -m venv DIR && DIR/bin/pip install torch==2.13.0`. The two run in turn, so that a slow spell of the machine
meets both. `bignas train` reads, augments and normalises its images, random ones in CIFAR-10's binary form; PyTorch has
one normalised batch in memory (bench/pytorch_training.py) and is tried in both memory layouts, of which the faster
counts. Both keep their default allocator, environment and thread settings. The first 20 steps of every run do not count.

First the two are shown to do the same: both train the smallest and the biggest child on one batch, from the same random
weights and without augmentation, and must come to the same losses at the 20th step.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SPACE = "cifar10"
CLASSES = 10
WARM_UP = 20
LOGGED_EVERY = 20
# What updates make of the order in which float32 is summed.
TOLERANCE = 2e-3


def write_data(directory, images):
    """CIFAR-10's binary form: a label and 3,072 pixels an image, in five files for training and one for the test."""
    directory.mkdir()
    noise = random.Random(0)
    names = [f"data_batch_{number}.bin" for number in range(1, 6)]
    for name, count in [(name, images // 5) for name in names] + [("test_batch.bin", 100)]:
        records = (bytes([noise.randrange(CLASSES)]) + noise.randbytes(3072) for _ in range(count))
        (directory / name).write_bytes(b"".join(records))
    (directory / "batches.meta.txt").write_text("".join(f"class {number}\n" for number in range(CLASSES)))


def do_the_same(args, work):
    """Ends the comparison where both do not come to the same losses."""
    batch, rate_per_256 = 125, 0.016
    data, run, start, trained = work / "one-batch", work / "one-batch-run", work / "one-batch-start", work / "one-batch-trained"
    write_data(data, batch)
    command = [args.bignas, "train", "--data", data, "--space", SPACE, "--run", run, "--model", trained]
    command += ["--epochs", str(LOGGED_EVERY), "--batch-size", str(batch), "--random-children", "0", "--threads", str(args.threads)]
    command += ["--pad", "0", "--no-flip", "--auto-augment", "none", "--without", "zero-gamma", "warm-up", "dropout"]
    command += ["--learning-rate", str(rate_per_256), "--floor", "1"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    ours = next(line for line in logged(run / "metrics.jsonl") if line["kind"] == "step")
    # The same seed, and so the weights that the training began with.
    init(args, start, "one")
    together = work / "one-batch.bin"
    together.write_bytes(b"".join((data / f"data_batch_{number}.bin").read_bytes() for number in range(1, 6)))
    preprocessing = json.loads((trained / "model.json").read_text())["preprocessing"]
    flags = ["--batch", together, "--random-children", "0", "--rate", str(rate_per_256 * batch / 256)]
    for name in ("mean", "std"):
        flags += [f"--{name}", *map(str, preprocessing[name])]
    theirs = pytorch(args, space_of(start), start / "weights.safetensors", LOGGED_EVERY, flags)["losses"]
    for name, before, loss in zip(("biggest", "smallest"), theirs[0], theirs[-1]):
        found = ours[f"loss_{name}"]
        print(f"loss of the {name} child on one batch: {before:.4f} at first, at step {LOGGED_EVERY} {found:.4f}, PyTorch {loss:.4f}")
        if not abs(found - loss) <= TOLERANCE * loss:
            sys.exit("the two do not do the same, so their speeds cannot be compared")


def init(args, model, gamma):
    command = [args.bignas, "init", "--space", SPACE, "--gamma", gamma, "--classes", str(CLASSES), "-o", model]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def space_of(model):
    space = model / "space.json"
    space.write_text(json.dumps(json.loads((model / "model.json").read_text())["space"]))
    return space


def bignas(binary, data, work, args):
    """Images per second, and the steps that the run logged, every twentieth, with its memory and how long it waited for images."""
    run = tempfile.mkdtemp(dir=work)
    command = [binary, "train", "--data", data, "--space", SPACE, "--run", f"{run}/run", "--model", f"{run}/model"]
    command += ["--epochs", "1", "--batch-size", str(args.batch_size), "--threads", str(args.threads)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    metrics = Path(run) / "run/metrics.jsonl"
    try:
        first = process.stderr.readline()
        if not first.startswith("step 1 "):
            sys.exit(f"bignas train: {first}{process.stderr.read()}")
        started = None
        while (done := len(logged(metrics)) * LOGGED_EVERY) < args.steps:
            if done >= WARM_UP and started is None:
                started = time.perf_counter()
            if process.poll() is not None:
                sys.exit(f"bignas train ended early: {process.stderr.read()}")
            time.sleep(0.02)
        seconds = time.perf_counter() - started
    finally:
        process.kill()
        process.wait()
    return (args.steps - WARM_UP) * args.batch_size / seconds, logged(metrics)


def logged(metrics):
    # The last line may be half written.
    whole = metrics.read_text().rpartition("\n")[0] if metrics.exists() else ""
    return [json.loads(line) for line in whole.splitlines()]


def pytorch(args, space, weights, steps, flags):
    command = [args.python, "-B", ROOT / "bench/pytorch_training.py", space, weights, "--steps", str(steps)]
    command += ["--batch-size", str(args.batch_size), "--threads", str(args.threads), *flags]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(output.stdout)


def pytorch_speed(args, model, flags):
    speeds = pytorch(args, space_of(model), model / "weights.safetensors", args.steps, flags)["images_per_second"][WARM_UP:]
    return len(speeds) / sum(1 / speed for speed in speeds)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("bignas")
    parser.add_argument("python")
    parser.add_argument("--steps", type=int, default=60, help="a multiple of 20, above 20")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        work = Path(work)
        do_the_same(args, work)
        data, model = work / "data", work / "model"
        write_data(data, args.batch_size * (args.steps + 1) + 4)
        init(args, model, "zero")
        ratios = []
        for number in range(args.rounds):
            ours, steps = bignas(args.bignas, data, work, args)
            first, last = (step["memory_bytes"] / 2**30 for step in (steps[0], steps[-1]))
            plain, channels_last = (pytorch_speed(args, model, flags) for flags in ([], ["--channels-last"]))
            ratios.append(ours / max(plain, channels_last))
            print(
                f"round {number + 1}: bignas {ours:.1f} images/s ({first:.2f} GiB after {WARM_UP} steps, {last:.2f} at the end, "
                f"{steps[-1]['waiting']:.2%} of the time waiting for images), "
                f"PyTorch {plain:.1f} in its default layout, {channels_last:.1f} channels last: {ratios[-1]:.2f}x",
                flush=True,
            )
        print(f"bignas train / PyTorch in its faster layout: {statistics.median(ratios):.2f}x, median of {args.rounds}")


if __name__ == "__main__":
    main()
