#!/usr/bin/env python3
"""Check that servers share what they built through a store of S3's kind: the second serves what the first built.

    check_artefact_store.py BIGNAS [--model DIR]

The store is moto's server, from the packages pinned in artefact-store-requirements.txt. The first server builds the family and a
child of a client's own; the second, with a cache of its own, builds nothing. With damaged objects, and then without the store,
a third and a fourth still answer.
"""

import argparse
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from packages import installed

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = Path(__file__).resolve().parent / "artefact-store-requirements.txt"
BUCKET, PREFIX = "children", "of/ours"
READY_S = 180


def wait_for(question, what):
    end = time.monotonic() + READY_S
    while time.monotonic() < end:
        try:
            if question():
                return
        except OSError:
            pass
        time.sleep(0.05)
    sys.exit(f"error: {what}")


class Store:
    """A server of S3's kind, with one bucket."""

    def __init__(self, packages):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.endpoint = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-c", "from moto.server import main; main()", "-H", "127.0.0.1", "-p", str(port)]
        environment = {**os.environ, "PYTHONPATH": str(packages)}
        self.process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(lambda: self.request("/").status == 200, "the store does not start")
        self.request(f"/{BUCKET}", method="PUT")

    def request(self, path, method="GET", body=None):
        # The store takes any signature; without one it takes nothing for a bucket's own.
        sign = "AWS4-HMAC-SHA256 Credential=key/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
        request = urllib.request.Request(self.endpoint + path, data=body, method=method, headers={"Authorization": sign})
        return urllib.request.urlopen(request, timeout=30)

    def objects(self):
        listing = self.request(f"/{BUCKET}?list-type=2&max-keys=1000").read().decode()
        return re.findall(r"<Key>([^<]+)</Key>", listing)

    def damage(self, end):
        for name in self.objects():
            if name.endswith(end):
                self.request(f"/{BUCKET}/{name}", method="PUT", body=b"no child")

    def stop(self):
        self.process.kill()
        self.process.wait()


class Server:
    """`bignas serve` with a fresh cache and the shared store, until the block ends."""

    def __init__(self, args, store):
        self.cache = tempfile.TemporaryDirectory()
        settings = {
            "AWS_ENDPOINT": store.endpoint,
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
        }
        command = [args.bignas, "serve", "--port", "0", "--model", args.model, "--cache-dir", self.cache.name]
        command += ["--artefact-store", f"s3://{BUCKET}/{PREFIX}", "--log-level", "warn"]
        self.process = subprocess.Popen(list(map(str, command)), env={**os.environ, **settings}, stdout=subprocess.PIPE, text=True)
        self.url = re.search(r"http://\S+", self.process.stdout.readline()).group().rstrip("/.,")

    def __enter__(self):
        wait_for(self.ready, "the server is not ready")
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0, "a server ends well"
        self.cache.cleanup()

    def ready(self):
        try:
            return urllib.request.urlopen(self.url + "/readyz", timeout=30).status == 200
        except urllib.error.HTTPError:
            return False

    def ask(self, path, body=None):
        headers = {"Content-Type": "application/json"} if isinstance(body, dict) else {"Content-Type": "application/octet-stream"}
        body = json.dumps(body).encode() if isinstance(body, dict) else body
        with urllib.request.urlopen(urllib.request.Request(self.url + path, data=body, headers=headers), timeout=60) as answer:
            return json.loads(answer.read())

    def metric(self, name):
        with urllib.request.urlopen(self.url + "/metrics", timeout=30) as answer:
            text = answer.read().decode()
        return float(re.search(rf"^{re.escape(name)} (\S+)", text, re.MULTILINE).group(1))

    def requests(self, outcome):
        return self.metric(f'bignas_artefact_requests_total{{outcome="{outcome}"}}')

    def builds(self):
        return self.metric('bignas_child_builds_total{outcome="ok"}')


def own_child(server):
    """The choices of a child that is not in the family: the two cheapest, crossed."""
    cheap, dearer = (child["choices"] for child in server.ask("/children")["children"][:2])
    return {**cheap, "head": dearer["head"]} if cheap["head"] != dearer["head"] else {**cheap, "resolution": dearer["resolution"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("bignas", type=Path)
    parser.add_argument("--model", type=Path, default=ROOT / "models/fashion-mnist")
    args = parser.parse_args()
    image = (args.model / "example.png").read_bytes()
    store = Store(installed(REQUIREMENTS, "artefact-store"))
    try:
        with Server(args, store) as first:
            choices, family = own_child(first), len(first.ask("/children")["children"])
            added = first.ask("/children", {"choices": choices})["id"]
            answer = first.ask(f"/classify?child={added}", image)
            built = first.builds()
            assert built == family + 1, f"{built} children built"
            # Every child and its statistics, but for what ships with the model.
            wait_for(lambda: first.requests("stored") >= built, "the first server shares nothing")
            assert first.requests("failed") == 0
        names = store.objects()
        assert names and all(re.fullmatch(rf"{PREFIX}/[0-9a-f]{{64}}\.(onnx|json|statistics\.safetensors)", name) for name in names), names
        with Server(args, store) as second:
            assert second.ask("/children", {"choices": choices})["id"] == added
            again = second.ask(f"/classify?child={added}", image)
            assert again["predictions"] == answer["predictions"]
            assert second.builds() == 0, f"{second.builds()} children built anew"
            assert second.requests("hit") == built and second.requests("failed") == 0
        store.damage(".onnx")
        with Server(args, store) as third:
            assert third.ask(f"/classify", image)["source"] == "memory"
            assert third.builds() == family, "what is damaged is built"
            assert third.requests("failed") == family
            wait_for(lambda: third.requests("stored") >= family, "what was damaged is not replaced")
    finally:
        store.stop()
    begin = time.monotonic()
    with Server(args, store) as fourth:
        assert fourth.ask("/classify", image)["predictions"]
        assert fourth.builds() == family
    print(f"{int(built)} children were built once and served twice; without the store, a server was ready in {time.monotonic() - begin:.1f} s")


if __name__ == "__main__":
    main()
