#!/usr/bin/env python3
"""Measure the memory that importing AttentiveNAS takes, and serving its smallest and biggest published child.

    imagenet_memory.py BIGNAS    the release binary, after `make build`

The checkpoint is synthetic: random weights under the published names and shapes, in PyTorch's file format.
Everything lies in a temporary folder. Prints the peak of the import, and the resident memory of a server
after eight requests to one child that it has just built, each beside the size of the checkpoint.
"""

import collections
import io
import json
import math
import os
import pickle
import random
import re
import struct
import subprocess
import sys
import tempfile
import time
import types
import urllib.request
import zipfile
from array import array
from pathlib import Path

EXAMPLE = Path(__file__).resolve().parent.parent / "models/fashion-mnist/example.png"
# Width, depth and expansion of every stage at their largest, and whether it has squeeze-excite.
STAGES = [(24, 2, 1, 0), (32, 5, 6, 0), (40, 6, 6, 1), (72, 6, 6, 0), (128, 8, 6, 1), (216, 8, 6, 1), (224, 2, 6, 1)]


def divisible(value):
    rounded = max(8, (value + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * value else rounded


def tensors():
    """Names and shapes of the parameters; statistics are left out, as nobody reads them."""
    norm = lambda name, width: [(f"{name}.bn.weight", [width]), (f"{name}.bn.bias", [width])]
    conv = lambda name, shape: [(f"{name}.conv.conv.weight", shape), *norm(f"{name}.bn", shape[0])]
    found = conv("first_conv", [24, 3, 3, 3])
    width_in, block = 24, 0
    for width, depth, expansion, squeeze in STAGES:
        for _ in range(depth):
            inner, wide = f"blocks.{block}.mobile_inverted_conv", width_in * expansion
            if expansion > 1:
                found += conv(f"{inner}.inverted_bottleneck", [wide, width_in, 1, 1])
            found += conv(f"{inner}.depth_conv", [wide, 1, 5, 5])
            if squeeze:
                narrow = divisible(wide // 4)
                found += [(f"{inner}.depth_conv.se.fc.reduce.weight", [narrow, wide, 1, 1]), (f"{inner}.depth_conv.se.fc.reduce.bias", [narrow])]
                found += [(f"{inner}.depth_conv.se.fc.expand.weight", [wide, narrow, 1, 1]), (f"{inner}.depth_conv.se.fc.expand.bias", [wide])]
            found += conv(f"{inner}.point_linear", [width, wide, 1, 1])
            found.append((f"blocks.{block}.shortcut.conv.conv.weight", [width, width_in, 1, 1]))
            width_in, block = width, block + 1
    found += conv("last_conv.final_expand_layer", [1344, 224, 1, 1])
    found.append(("last_conv.feature_mix_layer.conv.conv.weight", [1984, 1344, 1, 1]))
    return found + [("classifier.linear.linear.weight", [1000, 1984]), ("classifier.linear.linear.bias", [1000])]


def write_checkpoint(path):
    """A file as torch.save writes it, without torch: its two names are stood in for by modules of the same names."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    torch.FloatStorage = type("FloatStorage", (), {"__module__": "torch"})
    utils._rebuild_tensor_v2 = lambda *arguments: None
    utils._rebuild_tensor_v2.__module__, utils._rebuild_tensor_v2.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    sys.modules.update({"torch": torch, "torch._utils": utils})
    Storage = collections.namedtuple("Storage", "key count")

    class Tensor:
        def __init__(self, storage, shape):
            self.arguments = (storage, 0, tuple(shape), tuple(math.prod(shape[i + 1 :]) for i in range(len(shape))), False, {})

        def __reduce__(self):
            return utils._rebuild_tensor_v2, self.arguments

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return ("storage", torch.FloatStorage, value.key, "cpu", value.count) if isinstance(value, Storage) else None

    noise = array("f", (random.Random(0).gauss(0, 1) for _ in range(100_003)))
    with zipfile.ZipFile(path, "w") as archive:
        state = collections.OrderedDict()
        for key, (name, shape) in enumerate(tensors()):
            count, fan_in = math.prod(shape), math.prod(shape[1:])
            scale = 1.2 / math.sqrt(fan_in) if len(shape) > 1 else 0.1
            offset = 1.0 if name.endswith("bn.weight") else 0.0
            few = array("f", (offset + scale * value for value in noise))
            values = (few * (count // len(few) + 1))[:count]
            archive.writestr(f"archive/data/{key}", values.tobytes())
            state[f"module.{name}"] = Tensor(Storage(str(key), count), shape)
        buffer = io.BytesIO()
        Pickler(buffer, protocol=2).dump({"state_dict": state})
        archive.writestr("archive/data.pkl", buffer.getvalue())


def write_calibration(path, count=64):
    shape = [count, 3, 224, 224]
    data = random.Random(1).randbytes(math.prod(shape))
    header = json.dumps({"images": {"dtype": "U8", "shape": shape, "data_offsets": [0, len(data)]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)


def peak_of(command):
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        sys.exit(f"error: {command} failed")
    return usage.ru_maxrss / 1024


def resident_when_serving(bignas, model, position, cache):
    flags = ["--model", model, "--port", "0", "--warm-up", "false", "--cache-dir", cache]
    process = subprocess.Popen([bignas, "serve", *flags], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        base = process.stdout.readline().split()[-1]
        child = json.load(urllib.request.urlopen(f"{base}/children"))["children"][position]
        for _ in range(8):
            request = urllib.request.Request(f"{base}/classify?child={child['id']}", EXAMPLE.read_bytes(), {"content-type": "image/png"})
            urllib.request.urlopen(request).read()
        time.sleep(3)  # until its latency is measured
        resident = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
        return child["mflops"], int(resident[1]) / 1024
    finally:
        process.terminate()
        process.wait()


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    bignas = Path(sys.argv[1]).absolute()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        checkpoint, calibration, model = folder / "checkpoint.pth.tar", folder / "calibration.safetensors", folder / "attentivenas"
        write_checkpoint(checkpoint)
        write_calibration(calibration)
        size = checkpoint.stat().st_size / 2**20
        show = lambda what, mebibytes: print(f"{what}: {mebibytes:.0f} MiB, {mebibytes / size:.2f} checkpoints")
        show("checkpoint", size)
        show("import, peak", peak_of([bignas, "import", "attentivenas", checkpoint, "--calibration", calibration, "-o", model]))
        for position in [0, -1]:
            mflops, resident = resident_when_serving(bignas, model, position, folder / f"cache{position}")
            show(f"serving one child of {mflops:.2f} MFLOPs, just built", resident)


if __name__ == "__main__":
    main()
