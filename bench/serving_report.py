"""What bench/serving.py found, as JSON, Markdown and text."""

import json
import os
import platform
import re
import statistics
import subprocess
import sys

from serving_servers import APPS, PYTHON_SERVERS, ROOT, package

TITLES = {"bignas": "bignas", "limit": "in-process limit", **PYTHON_SERVERS}


def machine():
    """Where it was measured, and whether something else ran there."""
    cpu = re.search(r"model name\s*: (.*)", open("/proc/cpuinfo", encoding="ascii").read())
    commit = subprocess.run(["git", "-C", ROOT, "describe", "--always", "--dirty"], stdout=subprocess.PIPE, text=True, check=False)
    return {
        "cpu": cpu.group(1) if cpu else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg()[0],
        "system": platform.platform(),
        "python": platform.python_version(),
        "commit": commit.stdout.strip(),
    }


def version(name):
    """The pinned version of a Python server."""
    pins = (APPS / "requirements" / f"{package(name)}.txt").read_text(encoding="utf-8")
    return re.search(rf"(?mi)^{package(name)}==(\S+)", pins).group(1)


def ratio(ours, theirs):
    """Median over rounds of `ours` by `theirs`, measured minutes apart."""
    return statistics.median(a["throughput"] / b["throughput"] for a, b in zip(ours, theirs))


def summary(results):
    """For each server the medians, and how `bignas` compares."""
    found = {}
    for name, rounds in results.items():
        medians = {key: statistics.median(r[key] for r in rounds) for key in ["throughput", "p50_ms", "p99_ms"] if key in rounds[0]}
        medians["unstable_rounds"] = sum(not r.get("stable", True) for r in rounds)
        if "bignas" in results and name != "bignas":
            medians["bignas_ratio"] = ratio(results["bignas"], rounds)
        found[name] = medians
    return found


def table(found):
    """Rows of text, the header first."""
    rows = [["server", "images/s", "p50 ms", "p99 ms", "bignas is"]]
    for name, medians in found.items():
        title = f"{TITLES[name]} ({version(name)})" if name in PYTHON_SERVERS else TITLES[name]
        number = lambda key: f"{medians[key]:.2f}" if key in medians else ""
        times = f"{medians['bignas_ratio']:.2f}x" if "bignas_ratio" in medians else ""
        rows.append([title, f"{medians['throughput']:.1f}", number("p50_ms"), number("p99_ms"), times])
    return rows


def markdown(rows):
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|---|" + "---:|" * (len(rows[0]) - 1), *lines[1:]])


def text(rows):
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    line = lambda row: "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
    return "\n".join(map(line, rows))


def report(cases, rounds, args):
    """Writes serving.json and serving.md, and returns the same as text."""
    here, found = machine(), {case.name: summary(rounds[case.name]) for case in cases}
    describe = lambda case: {"name": case.name, "child": case.child, "mmacs": case.mmacs, "same_top1_resampled_by_either": case.agreeing}
    described = [{**describe(case), "images": len(case.images)} for case in cases]
    whole = {"command": sys.argv[1:], "machine": here, "cases": described, "medians": found, "rounds": rounds}
    (args.output / "serving.json").write_text(json.dumps(whole, indent=2), encoding="utf-8")
    heading = f"{here['cpu']}, {here['cores']} cores, load average {here['load_average']:.1f} at the end; commit {here['commit']}; "
    heading += f"{args.rounds} rounds, {args.connections} connections"
    parts = {case.name: f"{case.name}: child {case.child}, {case.mmacs:.2f} MMACs" for case in cases}
    pieces = [f"## {title}\n\n{markdown(table(found[name]))}" for name, title in parts.items()]
    (args.output / "serving.md").write_text("\n\n".join(["# Serving, compared", heading, *pieces]) + "\n", encoding="utf-8")
    return "\n\n".join([heading, *(f"{title}\n{text(table(found[name]))}" for name, title in parts.items())])
