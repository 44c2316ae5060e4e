"""A server under measurement, what asks it things, and what it makes of a load beside a disturbance."""

import contextlib
import csv
import http.client
import json
import os
import random
import re
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
import typing
import urllib.error
import urllib.parse
import urllib.request

READY_S = 600
# Turns of a load alone, the same again, and beside a disturbance.
TURNS = 5
# Recombinations in a row that are known already.
MAX_TRIES = 10_000


def request(url, body=None, method=None, status_only=False):
    """The JSON of an answer; a dictionary is sent as JSON, bytes as an image."""
    headers = {}
    if isinstance(body, dict):
        body, headers = json.dumps(body).encode(), {"Content-Type": "application/json"}
    elif body is not None:
        headers = {"Content-Type": "application/octet-stream"}
    asked = urllib.request.Request(url, data=body, headers=headers, method=method)
    try:
        with urllib.request.urlopen(asked, timeout=READY_S) as answer:
            text = answer.read()
            return answer.status if status_only else json.loads(text or "null")
    except urllib.error.HTTPError as error:
        if status_only:
            return error.code
        raise SystemExit(f"error: {url}: {error.code} {error.read().decode()}") from error


def stolen_s():
    """Core-seconds that other guests of this machine's host took from it since it started."""
    with open("/proc/stat", encoding="ascii") as stat:
        return int(stat.readline().split()[8]) / os.sysconf("SC_CLK_TCK")


class Server:
    """`bignas serve` on a free port, with a cache of its own, until the block ends."""

    def __init__(self, bignas, model, flags):
        self.cache = tempfile.mkdtemp(prefix="bignas-bench-")
        command = [bignas, "serve", "--port", "0", "--model", model, "--cache-dir", self.cache, *map(str, flags)]
        log = os.path.join(self.cache, "log")
        with open(log, "wb") as stderr:
            self.process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=stderr, text=True)
        found = re.search(r"http://\S+", self.process.stdout.readline())
        if not found:
            with open(log, encoding="utf-8") as said:
                raise SystemExit(f"error: the server does not start: {said.read()}")
        self.url = found.group().rstrip("/.,")

    def __enter__(self):
        end = time.monotonic() + READY_S
        while time.monotonic() < end:
            try:
                if request(self.url + "/readyz", status_only=True) == 200:
                    return self
            except OSError:
                pass
            time.sleep(0.1)
        raise SystemExit("error: the server is not ready")

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()
        shutil.rmtree(self.cache, ignore_errors=True)

    @staticmethod
    def random_model(bignas, folder):
        """Table 1's single-stage model with random weights."""
        command = [bignas, "init", "--space", "bignas", "--classes", "1000", "--calibration-images", "64", "-o", folder]
        subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL)
        return folder

    def children(self):
        return request(self.url + "/children")["children"]

    def cheapest(self):
        return self.children()[0]["id"]

    def resident_bytes(self):
        with open(f"/proc/{self.process.pid}/status", encoding="utf-8") as status:
            return 1024 * int(re.search(r"VmRSS:\s+(\d+)", status.read()).group(1))

    def cpu_s(self):
        """Seconds that the server has computed so far, on all cores together."""
        with open(f"/proc/{self.process.pid}/stat", encoding="utf-8") as stat:
            user, system = stat.read().rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def metric(self, name):
        with urllib.request.urlopen(self.url + "/metrics", timeout=60) as answer:
            text = answer.read().decode()
        return float(re.search(rf"^{re.escape(name)} (\S+)", text, re.MULTILINE).group(1))


def bench(args, server, ask, *flags, image=None):
    """What `bignas bench` finds."""
    flags = list(flags)
    if "--windows" not in flags:
        flags += ["--windows", 10]
    out = os.path.join(server.cache, "bench")
    command = [args.bignas, "bench", "--url", server.url, "--image", image or args.photo, "--output", out, "--ask", ask, *flags]
    done = subprocess.run(list(map(str, command)), check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"error: bignas bench: {done.stderr}")
    with open(out + ".json", encoding="utf-8") as file:
        found = json.load(file)
    return found.get("summary", found)


class Request(typing.NamedTuple):
    """An answered request: when it was due, how long it took, and its share of the time of its run; in seconds."""

    due: float
    latency: float
    service: float


def bench_requests(args, server, ask, *flags):
    """What became of each request of `bignas bench`, in order; ends the run where one was not answered."""
    bench(args, server, ask, *flags, "--requests")
    with open(os.path.join(server.cache, "bench.csv"), encoding="ascii") as file:
        rows = list(csv.DictReader(file))
    if any(row["status"] != "200" for row in rows):
        raise SystemExit(f"error: bignas bench: not all of {len(rows)} requests were answered")
    found = []
    for row in rows:
        run_ms = float(row["decode_ms"]) + float(row["inference_ms"])
        found.append(Request(*(ms / 1e3 for ms in (float(row["due_ms"]), float(row["latency_ms"]), run_ms / int(row["batch"])))))
    return found


def service_times(server, ask, image, clients, count):
    """Seconds that decoding and inference took, as the answers say, with so many clients at a time."""
    where, body = urllib.parse.urlsplit(server.url), image.read_bytes()
    found = []

    def client():
        connection = http.client.HTTPConnection(where.hostname, where.port)
        for _ in range(count):
            connection.request("POST", "/classify?" + ask, body, {"Content-Type": "application/octet-stream"})
            timing = json.loads(connection.getresponse().read())["timing_ms"]
            found.append((timing["decode"] + timing["inference"]) / 1e3)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    return found[len(found) // 10 :]


def random_choices(server, seed, parents=3):
    """Children that the server does not know: its cheapest ones, recombined stage by stage.

    What is made of cheap ones is built soon, but few of them make few. Ends the run where nothing new has come of many tries.
    """
    chance = random.Random(seed)
    known = [child["choices"] for child in server.children()[:parents]]
    seen = {json.dumps(choices, sort_keys=True) for choices in known}
    tries = 0
    while tries < MAX_TRIES:
        tries += 1
        pair = [chance.choice(known) for _ in range(2)]
        mixed = {
            key: [chance.choice(both) for both in zip(*(parent[key] for parent in pair))] if isinstance(value, list) else chance.choice(pair)[key]
            for key, value in pair[0].items()
        }
        text = json.dumps(mixed, sort_keys=True)
        if text not in seen:
            tries = 0
            seen.add(text)
            yield mixed
    raise SystemExit(f"error: {parents} children make no more than {len(seen)}")


def table_one(args, *flags):
    return Server(args.bignas, args.random, flags)


def capacity(args, server, ask):
    return bench(args, server, ask, "--arrivals", "closed", "--connections", 2 * args.cores)["throughput"]


def beside(args, server, disturb):
    """The hot child's p99 at half load beside a disturbance, over its p99 just before: the median of several turns.

    Before each disturbance comes a second load without one. What those differ by is what the machine alone makes of a p99."""
    ask = f"child={server.cheapest()}"
    flags = ("--arrivals", "poisson", "--rate", capacity(args, server, ask) / 2, "--windows", 4)
    turns = []
    for _ in range(TURNS):
        before, again = (bench(args, server, ask, *flags)["p99_ms"] for _ in range(2))
        with disturbed(server, disturb):
            turns.append((before, again, bench(args, server, ask, *flags)["p99_ms"]))
    ratios = [during / before for before, _, during in turns]
    undisturbed = [again / before for before, again, _ in turns]
    detail = {"ratios": rounded(ratios), "undisturbed": rounded(undisturbed), "p99_ms": [rounded(turn) for turn in turns]}
    return statistics.median(ratios), detail


@contextlib.contextmanager
def disturbed(server, disturb):
    """Has a thread disturb the server until the block ends."""
    done = threading.Event()
    thread = threading.Thread(target=disturb, args=(server, done))
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def rounded(values):
    return [round(value, 2) for value in values]
