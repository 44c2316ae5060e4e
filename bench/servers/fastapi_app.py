"""FastAPI: `python -m uvicorn fastapi_app:app --workers CORES`.

In two forms. The endpoint computes where it stands, which costs least a request but leaves a process idle that the kernel gave no
connection; or, with BENCH_THREADS, on a thread of its own, so that few processes suffice for all cores where networks are large.
"""

import asyncio
import os

from classifier import Classifier
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

app = FastAPI()
classifier = Classifier()
threads = bool(os.environ.get("BENCH_THREADS"))


@app.post("/classify")
async def classify(request: Request):
    body = await request.body()
    answer = await asyncio.to_thread(classifier, body) if threads else classifier(body)
    # A response of its own: FastAPI would first walk through the answer to make it serialisable.
    return JSONResponse(answer)
