"""BentoML: `python -m bentoml serve bentoml_app:Classify --port PORT`."""

import os

import bentoml
from classifier import Classifier


@bentoml.service(
    workers=int(os.environ["BENCH_CORES"]),
    logging={"access": {"enabled": False}},
    metrics={"enabled": False},
)
class Classify:
    def __init__(self):
        self.classifier = Classifier()

    # Without a thread of its own, which was slower; the slash makes the body the image.
    @bentoml.api
    async def classify(self, image: bytes, /) -> dict:
        return self.classifier(image)
