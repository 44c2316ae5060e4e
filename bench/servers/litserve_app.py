"""LitServe: `python litserve_app.py PORT CORES`."""

import sys
from typing import Annotated

import litserve
from classifier import Classifier
from fastapi import Depends, Request


async def body(request: Request) -> bytes:
    """The image as it was sent; by itself LitServe reads JSON and forms only."""
    return await request.body()


class Classify(litserve.LitAPI):
    def setup(self, device):
        self.classifier = Classifier()

    def decode_request(self, request: Annotated[bytes, Depends(body)]):
        return request

    def predict(self, image):
        return self.classifier(image)

    def encode_response(self, output):
        return output


if __name__ == "__main__":
    port, cores = map(int, sys.argv[1:])
    server = litserve.LitServer(Classify(api_path="/classify"), accelerator="cpu", workers_per_device=cores)
    server.run(host="127.0.0.1", port=port, log_level="warning", access_log=False, generate_client_file=False)
