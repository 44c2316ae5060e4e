"""MLServer: `mlserver start DIR` with the settings that bench/serving_servers.py writes."""

from typing import Annotated

from classifier import Classifier
from fastapi import Depends, Request
from mlserver import MLModel
from mlserver.handlers import custom_handler


async def body(request: Request) -> bytes:
    """The image as it was sent; its own protocol would wrap it in JSON as base64."""
    return await request.body()


class Classify(MLModel):
    async def load(self):
        self.classifier = Classifier()
        return True

    @custom_handler(rest_path="/classify")
    async def classify(self, image: Annotated[bytes, Depends(body)]) -> dict:
        return self.classifier(image)
