"""The servers that bench/serving.py compares: how each is started with one exported child, and stopped again."""

import contextlib
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
APPS = ROOT / "bench/servers"
sys.path.insert(0, str(ROOT / "scripts"))
from fetch import cache_dir, log  # noqa: E402

# Seconds that a server may take until it answers, and until it has stopped.
START_S, STOP_S = 180, 15
# Where a server has two sensible ways to be run, and which is faster depends on the network, both are.
PYTHON_SERVERS = {
    "fastapi": "FastAPI",
    "fastapi-threads": "FastAPI, on threads",
    "litserve": "LitServe",
    "bentoml": "BentoML",
    "mlserver": "MLServer, one process",
    "mlserver-workers": "MLServer, a worker a core",
}


def package(name):
    """What a Python server is installed as."""
    return name.partition("-")[0]


def environment(name):
    """The interpreter of the server's own virtual environment, made once a user; its folder changes with the pins and Python.

    One for each server: their packages contradict each other.
    """
    requirements = APPS / "requirements" / f"{package(name)}.txt"
    version = hashlib.sha256(requirements.read_bytes()).hexdigest()[:12]
    folder = cache_dir() / f"bench-{package(name)}-py{sys.version_info.major}{sys.version_info.minor}-{version}"
    python, whole = folder / "bin/python", folder / "whole"
    if not whole.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        log(f"installing {requirements.name} into {folder}")
        # Without a pip of its own, which Debian's python3 cannot give without a further package.
        subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", folder], check=True)
        command = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--disable-pip-version-check"]
        if subprocess.run([*command, "--no-deps", "-r", requirements], stdout=sys.stderr, check=False).returncode != 0:
            sys.exit(f"error: pip could not install {requirements}; see its message above")
        whole.touch()
    return python


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def mlserver_settings(folder, port, workers):
    """MLServer takes its settings from files; what it measures and traces by default is switched off."""
    settings = {"debug": False, "host": "127.0.0.1", "http_port": port, "grpc_port": free_port(), "metrics_endpoint": None}
    settings |= {"parallel_workers": workers, "gzip_enabled": False}
    (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    model = {"name": "child", "implementation": "mlserver_app.Classify"}
    (folder / "model-settings.json").write_text(json.dumps(model), encoding="utf-8")


def command(name, bignas, case, port, folder):
    """The command line of a server with the child of `case`."""
    cores = str(len(os.sched_getaffinity(0)))
    if name == "bignas":
        # Nobody here writes a line for every request.
        options = ["--port", str(port), "--cache-dir", case.folder / "cache", "--log-level", "warn"]
        return [bignas, "serve", "--model", case.model, *options]
    python = environment(name)
    if package(name) == "fastapi":
        options = ["--host", "127.0.0.1", "--port", str(port), "--workers", cores, "--no-access-log", "--log-level", "warning"]
        return [python, "-m", "uvicorn", "fastapi_app:app", *options]
    if name == "litserve":
        return [python, APPS / "litserve_app.py", str(port), cores]
    if name == "bentoml":
        return [python, "-m", "bentoml", "serve", "bentoml_app:Classify", "--host", "127.0.0.1", "--port", str(port)]
    mlserver_settings(folder, port, workers=int(cores) if name == "mlserver-workers" else 0)
    return [python.parent / "mlserver", "start", folder]


@contextlib.contextmanager
def running(name, bignas, case):
    """The address of the server `name`, which answers and will be stopped."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory(prefix=f"bignas-{name}-") as folder, open(case.folder / f"{name}.log", "ab") as output:
        folder = Path(folder)
        environ = dict(os.environ, PYTHONPATH=str(APPS), BENCH_ONNX=str(case.onnx), BENCH_CORES=str(len(os.sched_getaffinity(0))))
        environ |= {"BENCH_THREADS": "1"} if name == "fastapi-threads" else {}
        # No server may phone home, nor leave files behind.
        environ |= {"BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": str(folder / "bentoml"), "PYTHONDONTWRITEBYTECODE": "1"}
        # A session of its own, so that its workers can be stopped with it.
        process = subprocess.Popen(
            command(name, bignas, case, port, folder), cwd=folder, env=environ, stdout=output, stderr=output, start_new_session=True
        )
        try:
            wait_until_ready(process, f"{url}/readyz" if name == "bignas" else url, case, name)
            yield url
        finally:
            stop(process)


def wait_until_ready(process, url, case, name):
    deadline = time.monotonic() + START_S
    while True:
        if process.poll() is not None or time.monotonic() > deadline:
            sys.exit(f"error: {name} did not start; see {case.folder / name}.log")
        with contextlib.suppress(OSError, urllib.error.URLError):
            if name == "bignas":
                urllib.request.urlopen(url, timeout=5).close()
            else:
                classify(url, "/classify", case.images[0])
            return
        time.sleep(0.1)


def stop(process):
    for number in [signal.SIGTERM, signal.SIGKILL]:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)
    # Workers that outlived their parent died of the second signal, which goes to all of the session.


def classify(url, path, image):
    """The class with the highest probability for an image file."""
    request = urllib.request.Request(url + path, image.read_bytes(), {"content-type": "application/octet-stream"})
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)["predictions"][0]["index"]
