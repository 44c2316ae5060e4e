"""A real Chromium, the real server, and what the tests do with both."""

import base64
import contextlib
import http.server
import json
import os
import shutil
import struct
import subprocess
import tempfile
import threading
import time
import urllib.request
import zlib
from pathlib import Path

from selenium import webdriver
from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
from selenium.webdriver.common.by import By

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "models/fashion-mnist"
AXE = Path(os.environ["BIGNAS_TEST_AXE_CORE"]) / "axe.min.js"
RUNTIME = os.environ["BIGNAS_ONNXRUNTIME_WEB"]
WAIT_S = 30


class Server:
    """`bignas serve` on a free port, with a cache of its own."""

    def __init__(self, bignas, model=MODEL, flags=(), runtime=True):
        self.cache = tempfile.TemporaryDirectory()
        command = [bignas, "serve", "--model", model, "--port", "0", "--cache-dir", self.cache.name, *flags]
        env = {name: value for name, value in os.environ.items() if name != "BIGNAS_ONNXRUNTIME_WEB"}
        if runtime:
            env["BIGNAS_ONNXRUNTIME_WEB"] = RUNTIME
        self.process = subprocess.Popen(command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        first = self.process.stdout.readline()
        if "http://" not in first:
            raise RuntimeError(f"the server did not start: {first!r}")
        self.base = first.split()[-1]

    def get(self, path):
        with urllib.request.urlopen(self.base + path) as reply:
            return reply.read()

    def children(self):
        return json.loads(self.get("/children"))["children"]

    def first_label(self, child, image):
        """What a child sees in an image."""
        asked = urllib.request.Request(f"{self.base}/classify?child={child['id']}", image, {"content-type": "image/png"})
        with urllib.request.urlopen(asked) as reply:
            return json.loads(reply.read())["predictions"][0]["label"]

    def reload(self):
        """Has the model replaced by what lies in its directory now, which answers when this returns."""
        with urllib.request.urlopen(self.base + "/model/reload", b"") as reply:
            reply.read()

    def wait_until_ready(self):
        until(lambda: all(child["latency_ms"] for child in self.children()), "every child is measured")

    def stop(self):
        self.process.terminate()
        self.process.wait()
        self.process.stdout.close()
        self.cache.cleanup()


def until(condition, what):
    """Waits until `condition` gives something true, and returns it."""
    end = time.monotonic() + WAIT_S
    while time.monotonic() < end:
        # What was found may be replaced before it is read: then it is looked for again.
        with contextlib.suppress(NoSuchElementException, StaleElementReferenceException):
            if result := condition():
                return result
        time.sleep(0.05)
    raise AssertionError(f"{what}: not within {WAIT_S} s")


class Page:
    """The playground in a browser."""

    def __init__(self):
        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium")
        # As root, and in a container, Chromium's own sandbox cannot be had.
        for flag in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-gpu", "force-color-profile=srgb"):
            options.add_argument(f"--{flag}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
        self.downloads = tempfile.TemporaryDirectory()
        self.devtools("Browser.setDownloadBehavior", behavior="allow", downloadPath=self.downloads.name)
        self.look()

    def close(self):
        self.driver.quit()
        self.downloads.cleanup()

    def devtools(self, command, **parameters):
        return self.driver.execute_cdp_cmd(command, parameters)

    def look(self, width=1280, height=900, scheme="light"):
        """Shows the page as on another screen."""
        self.devtools("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        # A scroll bar would take its width from the page, and not from the screenshot.
        self.devtools("Emulation.setScrollbarsHidden", hidden=True)
        self.devtools(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 720
        )

    def open(self, base):
        self.driver.get(base + "/")

    def find(self, selector):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def text(self, selector):
        return until(lambda: (self.find(selector).text,), f"the text of {selector}")[0]

    def script(self, body, *arguments):
        return self.driver.execute_script(body, *arguments)

    def errors(self):
        """What the console has complained about since the last look."""
        return [
            f"{entry['level']}: {entry['message']}"
            for entry in self.driver.get_log("browser")
            if entry["level"] in ("SEVERE", "WARNING")
        ]

    def violations(self):
        """What axe-core finds, one line each."""
        self.script(AXE.read_text(encoding="utf-8"))
        found = self.driver.execute_async_script(
            "axe.run().then(arguments[0], (error) => arguments[0]({ error: String(error) }))"
        )
        assert "violations" in found and len(found["passes"]) > 20, found.get(
            "error", "axe-core checked next to nothing"
        )
        places = lambda rule: "; ".join(
            f"{node['target']} {node['any'][0]['message'] if node['any'] else ''}" for node in rule["nodes"][:3]
        )
        return [f"{rule['id']} ({rule['impact']}): {places(rule)}" for rule in found["violations"]]

    def answered(self, child=None):
        """Waits for an answer, of one child where it is named, and returns the first label."""

        def first():
            ids = [code.text for code in self.all("#answer-body .facts code")]
            is_idle = self.find("#answer").get_attribute("aria-busy") == "false"
            return ids and is_idle and child in (None, ids[0]) and self.text("#answer-body .bars li:first-child .label")

        return until(first, f"an answer of {child or 'a child'}")

    def child(self):
        return self.text("#answer-body .facts code")

    def screenshot(self, path):
        """The whole page as a PNG."""
        height = self.script("return document.documentElement.scrollHeight")
        picture = self.devtools(
            "Page.captureScreenshot",
            captureBeyondViewport=True,
            clip={
                "x": 0,
                "y": 0,
                "width": self.script("return document.documentElement.clientWidth"),
                "height": height,
                "scale": 1,
            },
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(picture["data"]))


@contextlib.contextmanager
def gate(base, key):
    """A proxy that lets requests to the API pass with a key only, and the page without."""

    class Gate(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def answer(self, status, media_type, body):
            self.send_response(status)
            self.send_header("content-type", media_type)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def relay(self, body=None):
            if self.path.startswith("/classify") and self.headers.get("authorization") != f"Bearer {key}":
                return self.answer(
                    401, "application/problem+json", b'{"code": "unauthorized", "detail": "the gate wants a key"}'
                )
            kept = {
                name: value for name, value in self.headers.items() if name.lower() in ("content-type", "authorization")
            }
            with urllib.request.urlopen(urllib.request.Request(base + self.path, body, kept)) as reply:
                return self.answer(reply.status, reply.headers["content-type"], reply.read())

        def do_GET(self):
            self.relay()

        def do_POST(self):
            self.relay(self.rfile.read(int(self.headers["content-length"])))

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Gate)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def png(width, height, channels, value):
    """A PNG of 1 (grey), 3 (RGB) or 4 (RGBA) channels, each byte given by `value(x, y, channel)`."""
    rows = (
        bytes(value(x, y, channel) & 255 for x in range(width) for channel in range(channels)) for y in range(height)
    )
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    head = struct.pack(">IIBBBBB", width, height, 8, {1: 0, 3: 2, 4: 6}[channels], 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
