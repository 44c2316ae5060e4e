"""What every Python server here runs for an image: Pillow, NumPy and ONNX Runtime, one thread.

It reads what it needs from the exported child itself: `bignas export` writes labels and preprocessing into the file.
Pillow cuts the crop and resizes it to the child's resolution in one pass, in whole 8-bit values, as people do it in
Python; `bignas` first makes the model's crop and resamples that without rounding. Top-1 answers are compared.
"""

import io
import json
import os

import numpy
import onnxruntime
from PIL import Image


class Classifier:
    def __init__(self, path=None):
        options = onnxruntime.SessionOptions()
        # A worker a core, so one thread a worker: anything more has them compete.
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        path = path or os.environ["BENCH_ONNX"]
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        metadata = self.session.get_modelmeta().custom_metadata_map
        preprocessing = json.loads(metadata["bignas.preprocessing"])
        self.labels = json.loads(metadata["bignas.labels"])
        self.input = self.session.get_inputs()[0].name
        self.side = self.session.get_inputs()[0].shape[2]
        self.crop, self.resize = preprocessing["crop"], preprocessing.get("resize")
        mean = numpy.array(preprocessing["mean"], numpy.float32)
        std = numpy.array(preprocessing["std"], numpy.float32)
        self.mode = "RGB" if len(mean) == 3 else "L"
        # (x / 255 - mean) / std as one multiplication and one addition.
        self.scale, self.offset = 1 / (255 * std), -mean / std

    def __call__(self, body):
        """The five most probable labels of an image file."""
        logits = self.session.run(None, {self.input: self.pixels(body)})[0][0]
        odds = numpy.exp(logits - logits.max())
        best = numpy.argsort(-logits)[:5]
        total = odds.sum()
        return {
            "predictions": [
                {"index": int(index), "label": self.labels[index], "probability": float(odds[index] / total)} for index in best
            ]
        }

    def pixels(self, body):
        image = Image.open(io.BytesIO(body))
        if image.mode != self.mode:
            image = image.convert(self.mode)
        shorter = min(image.size)
        # The crop's side in pixels of the file.
        side = self.crop * shorter / max(self.resize or shorter, self.crop)
        left, top = ((length - side) / 2 for length in image.size)
        image = image.resize((self.side, self.side), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
        pixels = numpy.asarray(image, numpy.float32).reshape(self.side, self.side, -1)
        pixels = pixels * self.scale + self.offset
        return numpy.ascontiguousarray(pixels.transpose(2, 0, 1)[None])
