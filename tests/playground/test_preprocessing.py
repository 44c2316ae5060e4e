"""The input that a browser makes of an image, held against the server's by what a network says to both."""

import json
import math
import subprocess
import tempfile
from pathlib import Path

from browser import ROOT, png, until
from cases import BIGNAS, SAME, PageTest


class Preprocessing(PageTest):
    """A random model of colour photographs: the browser must make the same input of an image as the server."""

    # Two JPEG decoders differ by a level here and there, and random weights let nothing pass unnoticed.
    nearly = 0.005
    filter = "bicubic"

    @classmethod
    def setUpClass(cls):
        scratch = tempfile.TemporaryDirectory()
        cls.addClassCleanup(scratch.cleanup)
        cls.model = Path(scratch.name) / "model"
        subprocess.run(
            [BIGNAS, "init", "--space", "cifar10", "--classes", "7", "--output", cls.model],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        (cls.model / "example.png").write_bytes(png(50, 40, 3, lambda x, y, channel: x * 3 + y * (channel + 2)))
        file = cls.model / "model.json"
        card = json.loads(file.read_text(encoding="utf-8"))
        card["preprocessing"].update(
            resize=card["preprocessing"]["crop"] + 9, filter=cls.filter, background=[200, 30, 90]
        )
        file.write_text(json.dumps(card), encoding="utf-8")
        super().setUpClass()

    def choose(self, name, content):
        file = Path(self.page.downloads.name) / name
        file.write_bytes(content)
        self.page.find("#file").send_keys(str(file))
        until(lambda: self.page.text("#picture-name").startswith(f"{name} ·"), "the image is shown")
        self.page.answered()

    def test_the_input_is_the_same(self):
        wave = lambda x, y, channel: int(128 + 60 * math.sin(x / 5 + channel) + 50 * math.cos(y / 7 - channel))
        exact = {
            "wide.png": png(190, 83, 3, wave),
            "tall.png": png(61, 140, 3, wave),
            "small.png": png(20, 17, 3, wave),
            "grey.png": png(99, 99, 1, wave),
            "clear.png": png(
                90, 70, 4, lambda x, y, channel: 255 * (x // 9 % 2) if channel == 3 else wave(x, y, channel)
            ),
        }
        photographs = {
            name: (ROOT / "tests/data/images" / name).read_bytes() for name in ("progressive.jpg", "lossy.webp")
        }
        for name, content in (exact | photographs).items():
            with self.subTest(name):
                self.choose(name, content)
                self.assertLess(self.run_here(), SAME if name in exact else self.nearly)


class Bilinear(Preprocessing):
    """The same with the other filter."""

    filter = "bilinear"
