#!/usr/bin/env python3
"""Compare the throughput of `bignas serve` with its own limit and with what one would take instead, in one run.

    serving.py BIGNAS IN_PROCESS [--output DIR] [--rounds 3] [--connections 8] [--cases shipped table-1] ...

BIGNAS is the release binary, IN_PROCESS the release build of examples/in_process.rs (`make bench-serving` builds both).
Every server gets the same child, the file that `bignas export` writes, and the same JPEG files, each as the body of a
POST from `bignas bench`, a closed loop; each answers with the five most probable labels as JSON. Before it is measured,
a server's top-1 answers must be those of `bignas`. The servers run one at a time, in turn, for several rounds; a ratio is
the median over rounds of the ratio within a round, so that a slow spell of the machine meets both sides.

Cases: `shipped` is the cheapest child of a shipped model (--model), with images of its calibration set; `table-1` the
smallest child of the paper's Table 1 with random weights, with synthetic photographs, or those of --photos DIR.
Writes serving.json, serving.md and the servers' logs into DIR.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from load_server import stolen_s
from serving_report import report
from serving_servers import APPS, PYTHON_SERVERS, ROOT, classify, environment, running

# Images that are sent, and how many are made to choose them from.
IMAGES, CANDIDATES = 32, 48


@dataclass
class Case:
    """One child, and the images that it is asked about."""

    name: str
    model: Path
    child: str
    mmacs: float
    onnx: Path
    folder: Path
    images: list
    # What `bignas` says of each image.
    expected: list
    # Images of which it is not the resampling that decides what they are taken for, of so many.
    agreeing: str = ""


def prepare(name, args):
    """The model of a case, its cheapest child as a file, and images."""
    folder = args.output / name
    folder.mkdir(parents=True, exist_ok=True)
    model = args.model
    if name == "table-1":
        model = folder / "model"
        shutil.rmtree(model, ignore_errors=True)
        subprocess.run([args.bignas, "init", "--space", "bignas", "--classes", "1000", "--output", model], check=True)
    cheapest = json.loads((model / "family.json").read_text(encoding="utf-8"))["children"][0]
    onnx = folder / "child.onnx"
    subprocess.run([args.bignas, "export", "--model", model, "--child", cheapest["id"], "--output", onnx], check=True)
    case = Case(name, model, cheapest["id"], cheapest["macs"] / 1e6, onnx, folder, candidates(name, model, folder, args), [])
    choose_images(case, args)
    return case


def candidates(name, model, folder, args):
    """Image files to choose from."""
    if name == "table-1" and args.photos:
        return sorted(path.absolute() for path in args.photos.iterdir() if path.suffix.lower() in (".jpg", ".jpeg"))[:CANDIDATES]
    source = ["photos"] if name == "table-1" else ["calibration"]
    images = folder / "images"
    shutil.rmtree(images, ignore_errors=True)
    command = [environment("fastapi"), "-B", APPS / "images.py", *source, images, str(CANDIDATES)]
    subprocess.run([*command, *([model / "calibration.safetensors"] if name == "shipped" else [])], check=True)
    return sorted(images.iterdir())


def choose_images(case, args):
    """Keeps images that are taken for the same thing whether Pillow or `bignas` resamples them.

    What is left to disagree about is the servers' doing, so that one wrong answer is an error.
    """
    expected = in_process(case, args, warm_up_s=0, seconds=0)["top1"]
    script = "import sys; from classifier import Classifier; c = Classifier(sys.argv[1])\n"
    script += "for name in sys.argv[2:]: print(c(open(name, 'rb').read())['predictions'][0]['index'])"
    command = [environment("fastapi"), "-B", "-c", script, case.onnx, *case.images]
    environ = dict(os.environ, PYTHONPATH=str(APPS))
    pillow = subprocess.run(command, env=environ, check=True, stdout=subprocess.PIPE, text=True).stdout.split()
    same = [(image, index) for image, index, other in zip(case.images, expected, map(int, pillow)) if index == other]
    case.agreeing = f"{len(same)} of {len(expected)}"
    if len(same) < 0.8 * len(expected):
        sys.exit(f"error: {case.name}: Pillow and bignas agree on {case.agreeing} images only; the models or the resizing differ")
    case.images, case.expected = [image for image, _ in same[:IMAGES]], [index for _, index in same[:IMAGES]]


def in_process(case, args, warm_up_s, seconds):
    """The limit: the same work in a loop, a thread a core."""
    cores = len(os.sched_getaffinity(0))
    command = [args.in_process, case.model, case.onnx, str(cores), str(warm_up_s), str(seconds), *case.images]
    result = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    if case.expected and result["top1"] != case.expected:
        sys.exit(f"error: {case.name}: the limit answers otherwise than before")
    return result


def measure(name, case, args):
    """Throughput and latencies of one server, after its answers were checked."""
    if name == "limit":
        return {"throughput": in_process(case, args, args.warm_up_s, args.window_s * args.windows)["throughput"]}
    path, ask = "/classify", [f"child={case.child}"] if name == "bignas" else []
    with running(name, args.bignas, case) as url:
        query = "".join(f"?{part}" for part in ask)
        for image, expected in zip(case.images, case.expected):
            if (found := classify(url, path + query, image)) != expected:
                sys.exit(f"error: {name} takes {image} for class {found}, bignas for {expected}")
        out = case.folder / f"bench-{name}"
        command = [args.bignas, "bench", "--url", url, "--path", path, "--connections", str(args.connections), "--output", out]
        command += ["--warm-up-s", str(args.warm_up_s), "--window-s", str(args.window_s), "--windows", str(args.windows)]
        command += [*(["--ask", *ask] if ask else []), "--image", *case.images]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    result = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
    if list(result["summary"]["statuses"]) != ["200"]:
        sys.exit(f"error: {name} answered with {result['summary']['statuses']}; see {case.folder / name}.log")
    kept = {key: result["summary"][key] for key in ["throughput", "p50_ms", "p99_ms", "requests"]}
    return {**kept, "stable": result["stable"]}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ["bignas", "limit", *PYTHON_SERVERS]
    parser.add_argument("bignas", type=Path)
    parser.add_argument("in_process", type=Path)
    parser.add_argument("--output", type=Path, default=ROOT / "runs/serving", metavar="DIR")
    parser.add_argument("--model", type=Path, default=ROOT / "models/fashion-mnist", metavar="DIR", help="the shipped model")
    parser.add_argument("--photos", type=Path, metavar="DIR", help="JPEG files to send instead of synthetic ones")
    parser.add_argument("--cases", nargs="+", choices=["shipped", "table-1"], default=["shipped", "table-1"])
    parser.add_argument("--servers", nargs="+", choices=names, default=names)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=8, help="requests in flight")
    parser.add_argument("--warm-up-s", type=int, default=3)
    parser.add_argument("--window-s", type=int, default=5)
    parser.add_argument("--windows", type=int, default=6, help="at most; three that agree are enough")
    args = parser.parse_args()
    args.output, args.model = args.output.absolute(), args.model.absolute()
    args.bignas, args.in_process = args.bignas.absolute(), args.in_process.absolute()
    return args


def main():
    args = arguments()
    cases, rounds = [prepare(name, args) for name in args.cases], {}
    for number in range(args.rounds):
        for case in cases:
            for name in args.servers:
                stolen = stolen_s()
                result = measure(name, case, args)
                stolen = result["stolen_core_s"] = round(stolen_s() - stolen, 1)
                rounds.setdefault(case.name, {}).setdefault(name, []).append(result)
                found = f"{result['throughput']:.1f}/s, other guests of the host took {stolen} core-seconds (steal)"
                print(f"round {number + 1}, {case.name}, {name}: {found}", file=sys.stderr, flush=True)
    print(report(cases, rounds, args))


if __name__ == "__main__":
    main()
