#!/usr/bin/env python3
"""Write dashboards/bignas.json from what stands here: `dashboard.py`; `dashboard.py --check` only compares.

Grafana's own form takes forty lines for a panel of one. What varies between panels is said here, and nothing else.
"""

import json
import sys
from pathlib import Path

OUT = Path(__file__).resolve().parent / "dashboards/bignas.json"
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
# What every query is restricted to.
HERE = 'job=~"$job",instance=~"$instance"'
HEIGHT, COLUMNS = 8, 24


def rate(metric, by="", labels=""):
    """The sum over servers of a counter's rate."""
    selector = ",".join(filter(None, [labels, HERE]))
    return f"sum{f' by ({by}) ' if by else ''}(rate({metric}{{{selector}}}[$__rate_interval]))"


def mean(histogram, by="", window="$__rate_interval"):
    one = lambda part: rate(f"{histogram}_{part}", by).replace("$__rate_interval", window)
    return f"{one('sum')} / {one('count')}"


def share(metric, labels):
    """How much of a counter's rate has these labels."""
    return f"{rate(metric, labels=labels)} / {rate(metric)}"


def quantiles(histogram, labels="", shares=(0.5, 0.9, 0.99)):
    return {f"p{100 * share:g}": f"histogram_quantile({share}, {rate(f'{histogram}_bucket', 'le', labels)})" for share in shares}


def gauge(metric, how="sum"):
    return f"{how}({metric}{{{HERE}}})"


CLASSIFY = 'route="/classify"'

# Per row, panels: title, queries by legend, and what differs from a line chart of numbers.
ROWS = {
    "Traffic": [
        (
            "Classify requests by outcome",
            {"{{status}}": rate("bignas_http_requests_total", "status", CLASSIFY)},
            {"unit": "reqps", "stack": True},
        ),
        ("Latency", quantiles("bignas_http_request_seconds", CLASSIFY), {"unit": "s"}),
        (
            "Latency, all of it",
            {"{{le}}": rate("bignas_http_request_seconds_bucket", "le", CLASSIFY)},
            {"type": "heatmap", "unit": "s"},
        ),
        (
            "Error budget burn (1: used up in 30 days)",
            {window: f'bignas:classify_error_ratio:rate{window}{{job=~"$job"}} / 0.001' for window in ["5m", "30m", "1h", "6h"]},
            {"steps": [(None, "green"), (6, "orange"), (14.4, "red")]},
        ),
        ("Problems by code", {"{{code}}": rate("bignas_problems_total", "code")}, {"unit": "reqps", "stack": True}),
        ("Connections", {"open": gauge("bignas_http_connections"), "in flight": gauge("bignas_http_requests_in_flight")}, {}),
    ],
    "Queue and batches": [
        ("Images that wait", {"{{instance}}": f"bignas_queue_depth{{{HERE}}}"}, {}),
        ("Time in the queue", quantiles("bignas_phase_seconds", 'phase="queue"'), {"unit": "s"}),
        ("Images in a run", {"mean": mean("bignas_batch_size"), **quantiles("bignas_batch_size", shares=[0.99])}, {}),
        (
            "Refused, degraded, cancelled",
            {
                "refused: {{reason}}": rate("bignas_shed_total", "reason"),
                "by a smaller child": rate("bignas_degraded_total"),
                "images whose client left": rate("bignas_cancelled_images_total"),
            },
            {"unit": "ops"},
        ),
        (
            "Share refused",
            {"{{job}}": 'bignas:shed_ratio:rate5m{job=~"$job"}'},
            {"unit": "percentunit", "steps": [(None, "green"), (0.01, "red")]},
        ),
        (
            "Share by a smaller child",
            {"degraded": f"{rate('bignas_degraded_total')} / {rate('bignas_child_requests_total')}"},
            {"unit": "percentunit"},
        ),
    ],
    "Phases": [
        ("Mean time by phase", {"{{phase}}": mean("bignas_phase_seconds", "phase")}, {"unit": "s", "stack": True}),
        (
            "99th percentile by phase",
            {"{{phase}}": f"histogram_quantile(0.99, {rate('bignas_phase_seconds_bucket', 'phase, le')})"},
            {"unit": "s"},
        ),
        ("Time decoding", quantiles("bignas_phase_seconds", 'phase="decode"'), {"unit": "s"}),
        ("Time inferring", quantiles("bignas_phase_seconds", 'phase="inference"'), {"unit": "s"}),
    ],
    "Family": [
        ("Children that answer", {"{{child}}": rate("bignas_child_requests_total", "child")}, {"unit": "reqps", "stack": True}),
        ("Mean accuracy served", {"accuracy": mean("bignas_served_accuracy")}, {"unit": "percentunit"}),
        ("Mean multiply-adds served, in millions", {"MMACs": mean("bignas_served_mflops")}, {}),
        (
            "Budget met",
            {"met": share("bignas_budget_met_total", 'met="true"')},
            {"unit": "percentunit", "steps": [(None, "red"), (0.95, "green")]},
        ),
        (
            "Predicted time of a run over what it took",
            quantiles("bignas_prediction_ratio", shares=[0.1, 0.5, 0.9]),
            {"steps": [(None, "red"), (0.8, "green"), (1.25, "red")]},
        ),
        (
            "Measured time of a run over what it took",
            {
                **quantiles("bignas_profile_ratio", shares=[0.1, 0.5, 0.9]),
                "median of 15 minutes, {{instance}}": f"bignas:profile_ratio:median15m{{{HERE}}}",
            },
            {"steps": [(None, "red"), (0.8, "green"), (1.25, "red")]},
        ),
        (
            "Children found in memory",
            {"hits": share("bignas_child_source_total", 'source="memory"')},
            {"unit": "percentunit"},
        ),
        (
            "Mean time of a build by stage, last hour",
            {"{{stage}}": mean("bignas_child_build_seconds", "stage", "1h")},
            {"unit": "s", "stack": True},
        ),
        (
            "Built and dropped",
            {
                "built: {{outcome}}": rate("bignas_child_builds_total", "outcome"),
                "dropped from memory": rate("bignas_child_cache_evictions_total"),
            },
            {"unit": "ops"},
        ),
        (
            "Artefact store",
            {"{{outcome}}": rate("bignas_artefact_requests_total", "outcome")},
            {"unit": "ops"},
        ),
        ("Children in memory", {"{{instance}}": f"bignas_loaded_children{{{HERE}}}"}, {}),
        (
            "Bytes of children",
            {"in memory": gauge("bignas_child_cache_bytes"), "on disk": gauge("bignas_child_disk_bytes")},
            {"unit": "bytes"},
        ),
    ],
    "Process and device": [
        (
            "Processor cores in use",
            {"{{instance}}": rate("process_cpu_seconds_total", "instance"), "workers": gauge("bignas_workers")},
            {},
        ),
        ("Memory", {"{{instance}}": f"process_resident_memory_bytes{{{HERE}}}"}, {"unit": "bytes"}),
        (
            "Threads and open files",
            {"threads": gauge("process_threads"), "open files": gauge("process_open_fds"), "their limit": gauge("process_max_fds", "min")},
            {},
        ),
        ("Panics caught", {"{{instance}}": f"increase(bignas_panics_total{{{HERE}}}[1h])"}, {"type": "stat"}),
        ("Runs on", {"{{instance}}: {{provider}}": f"bignas_execution_provider_info{{{HERE}}}"}, {"type": "stat", "text": "name"}),
        ("Up for", {"{{instance}}": f"time() - process_start_time_seconds{{{HERE}}}"}, {"type": "stat", "unit": "s"}),
    ],
}


def panel(number, title, queries, options, position):
    kind = options.get("type", "timeseries")
    targets = [
        {"refId": chr(ord("A") + index), "datasource": SOURCE, "expr": expr, "legendFormat": legend}
        | ({"format": "heatmap"} if kind == "heatmap" else {})
        for index, (legend, expr) in enumerate(queries.items())
    ]
    defaults = {"unit": options.get("unit", "short"), "min": 0}
    if kind == "timeseries":
        stacking = {"mode": "normal" if options.get("stack") else "none", "group": "A"}
        lines = {"mode": "dashed" if "steps" in options else "off"}
        defaults["custom"] = {"fillOpacity": 20 if options.get("stack") else 0, "stacking": stacking, "thresholdsStyle": lines}
    if "steps" in options:
        defaults["thresholds"] = {"mode": "absolute", "steps": [{"value": value, "color": color} for value, color in options["steps"]]}
    shown = {
        "timeseries": {"tooltip": {"mode": "multi", "sort": "desc"}},
        "heatmap": {"calculate": False, "yAxis": {"unit": options.get("unit", "short")}, "color": {"scheme": "Oranges"}},
        "stat": {"textMode": options.get("text", "value_and_name"), "reduceOptions": {"calcs": ["lastNotNull"]}},
    }[kind]
    whole = {"id": number, "title": title, "type": kind, "datasource": SOURCE, "gridPos": position, "targets": targets}
    return whole | {"fieldConfig": {"defaults": defaults, "overrides": []}, "options": shown}


def panels():
    made, y = [], 0
    for row, contents in ROWS.items():
        position = {"x": 0, "y": y, "w": COLUMNS, "h": 1}
        made.append({"id": len(made) + 1, "type": "row", "title": row, "collapsed": False, "panels": [], "gridPos": position})
        y += 1
        # Three abreast, or two where that fills the lines.
        width = COLUMNS // (2 if len(contents) % 3 and len(contents) % 2 == 0 else 3)
        for index, (title, queries, options) in enumerate(contents):
            x, line = index * width % COLUMNS, index * width // COLUMNS
            made.append(panel(len(made) + 1, title, queries, options, {"x": x, "y": y + line * HEIGHT, "w": width, "h": HEIGHT}))
        y += -(-len(contents) * width // COLUMNS) * HEIGHT
    return made


def variable(name, label):
    known = "bignas_workers" if name == "job" else 'bignas_workers{job=~"$job"}'
    query = {"name": name, "label": label, "type": "query", "datasource": SOURCE, "query": f"label_values({known}, {name})", "refresh": 2}
    return query | {"includeAll": True, "multi": True, "current": {"text": "All", "value": "$__all"}}


def dashboard():
    source = {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
    return {
        "title": "bignas",
        "uid": "bignas",
        "description": "How the server is doing; docs/metrics.md describes every metric.",
        "schemaVersion": 39,
        "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"},
        "graphTooltip": 1,
        "templating": {"list": [source, variable("job", "Job"), variable("instance", "Server")]},
        "panels": panels(),
    }


def main():
    text = json.dumps(dashboard(), indent=1) + "\n"
    if sys.argv[1:] == ["--check"]:
        if OUT.read_text(encoding="utf-8") != text:
            sys.exit(f"error: {OUT} is not what dashboard.py writes; run it")
    else:
        OUT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
