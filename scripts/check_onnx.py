#!/usr/bin/env python3
"""Check what `bignas export` writes with the ONNX checker and with stock ONNX Runtime.

    check_onnx.py BIGNAS    export the smallest and the biggest child of random models, and check them

The checker and the runtime are those of onnx-requirements.txt (see packages.py).
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from packages import installed

REQUIREMENTS = Path(__file__).resolve().parent / "onnx-requirements.txt"
PRESETS = ["fashion-mnist", "bignas", "attentivenas"]
METADATA = ["model", "child", "choices", "macs", "params", "labels", "preprocessing", "input", "weights_sha256", "statistics_sha256"]


def export(bignas, preset, folder):
    """One file a child, of a random model of `preset`."""
    model = folder / preset
    subprocess.run([bignas, "init", "--space", preset, "--calibration-images", "4", "--output", model], check=True)
    for child, form in [("smallest", "resolution"), ("biggest", "resolution"), ("smallest", "crop")]:
        file = folder / f"{preset}-{child}-{form}.onnx"
        subprocess.run([bignas, "export", "--model", model, "--child", child, "--input", form, "--output", file], check=True)
        yield file


def check(file):
    """Everything that a stranger's tools may expect of the file; raises where one does not hold."""
    import numpy
    import onnx
    import onnxruntime

    onnx.checker.check_model(str(file), full_check=True)
    model = onnx.load(str(file))
    assert [(used.domain, used.version) for used in model.opset_import] == [("", 17)], "opset 17 and no other"
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert all(metadata.get(f"bignas.{key}") for key in METADATA), f"metadata {sorted(metadata)}"
    labels = json.loads(metadata["bignas.labels"])

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    images, logits = session.get_inputs()[0], session.get_outputs()[0]
    assert (images.name, logits.name) == ("images", "logits")
    assert isinstance(images.shape[0], str), f"the batch of {images.shape} is not free"
    batch = numpy.random.default_rng(0).normal(size=(3, *images.shape[1:])).astype(numpy.float32)
    together = session.run(None, {"images": batch})[0]
    alone = session.run(None, {"images": batch[:1]})[0]
    assert together.shape == (3, len(labels)) and alone.shape == (1, len(labels))
    assert numpy.isfinite(together).all()
    assert numpy.abs(together[:1] - alone).max() < 1e-4 * numpy.abs(together).max(), "an image depends on its batch"
    print(f"{file.name}: {len(model.graph.node)} nodes, {file.stat().st_size / 1e6:.1f} MB, batches of 1 and 3 agree")


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.path.insert(0, str(installed(REQUIREMENTS, "onnx-checker")))
    with tempfile.TemporaryDirectory() as folder:
        for preset in PRESETS:
            for file in export(Path(sys.argv[1]).absolute(), preset, Path(folder)):
                check(file)


if __name__ == "__main__":
    main()
