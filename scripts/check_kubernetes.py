#!/usr/bin/env python3
"""Check docker/kubernetes against the published schemas, and against each other and the program.

    check_kubernetes.py

Kubernetes' own schemas are those of the package kubernetes-validate, strict and for the oldest and the newest version
that we name; a ServiceMonitor is read by models made of the Prometheus operator's definition. Both are pinned in
kubernetes-requirements.txt, and installed once into a folder beside the fetched parts.
"""

import json
import re
import sys
from pathlib import Path

from packages import installed

ROOT = Path(__file__).resolve().parent.parent
MANIFESTS = ROOT / "docker/kubernetes"
REQUIREMENTS = Path(__file__).resolve().parent / "kubernetes-requirements.txt"
VERSIONS = ["1.33", "1.37"]
KINDS = ["Deployment", "HorizontalPodAutoscaler", "PodDisruptionBudget", "Service", "ServiceMonitor"]


def read():
    """The manifests by kind, one a file and of each kind one."""
    import yaml

    documents = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(MANIFESTS.glob("*.yaml"))]
    assert sorted(document["kind"] for document in documents) == KINDS, "one manifest of each kind"
    return {document["kind"]: document for document in documents}


def check_schema(document):
    """Raises where the published schema does not allow the document, an unknown field included."""
    import kubernetes_validate

    if document["apiVersion"] != "monitoring.coreos.com/v1":
        for version in VERSIONS:
            kubernetes_validate.validate(document, version, strict=True)
        return
    from cloudcoil.models.prometheus_operator import v1

    # The models leave out what they do not know.
    known = v1.ServiceMonitor.model_validate(document).model_dump(by_alias=True, exclude_unset=True, mode="json")
    assert known == document, f"a ServiceMonitor has no such field: {known} is left of {document}"


def check_refusals(documents):
    """A check that lets everything pass would be none: one mistake in each manifest must be found."""
    mistakes = {
        "Deployment": lambda d: d["spec"]["template"]["spec"].update(terminationGracePeriod=60),
        "HorizontalPodAutoscaler": lambda d: d["spec"].update(maxReplicas="ten"),
        "PodDisruptionBudget": lambda d: d["spec"].update(minimum=1),
        "Service": lambda d: d["spec"]["ports"][0].pop("port"),
        "ServiceMonitor": lambda d: d["spec"]["endpoints"][0].update(interval="15 seconds"),
    }
    for kind, mistake in mistakes.items():
        wrong = json.loads(json.dumps(documents[kind]))
        mistake(wrong)
        try:
            check_schema(wrong)
        except Exception:  # whatever the validators raise
            continue
        raise AssertionError(f"a mistake in the {kind} was not found")


def check_references(documents):
    """What one manifest says of another holds."""
    deployment, service, monitor = documents["Deployment"], documents["Service"], documents["ServiceMonitor"]
    pod = deployment["spec"]["template"]
    labels = pod["metadata"]["labels"]
    selectors = [deployment["spec"]["selector"]["matchLabels"], service["spec"]["selector"]]
    selectors.append(documents["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"])
    assert all(selector.items() <= labels.items() for selector in selectors), "a selector misses the pods"
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items(), "the monitor misses the service"
    target = documents["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", deployment["metadata"]["name"]), "the autoscaler misses the deployment"
    (container,) = pod["spec"]["containers"]
    assert {port["targetPort"] for port in service["spec"]["ports"]} <= {port["name"] for port in container["ports"]}
    assert {endpoint["port"] for endpoint in monitor["spec"]["endpoints"]} <= {port["name"] for port in service["spec"]["ports"]}
    # The rules and the dashboard say `job="bignas"`, and the operator names the job after the service.
    assert service["metadata"]["name"] == "bignas"
    rules = (ROOT / "docker/prometheus/bignas.rules.yml").read_text(encoding="utf-8")
    assert all(f'{label}="expected"' in rules for label in monitor["spec"]["podTargetLabels"]), "no rule wants these labels of the pods"


def check_program(documents):
    """What the manifests say of the program holds: settings, routes, drain."""
    spec = documents["Deployment"]["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    values = {variable["name"]: variable.get("value") for variable in container["env"]}
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.rs"))
    unknown = [name for name in values if f'env = "{name}"' not in sources]
    assert not unknown, f"the program has no setting {unknown}"
    ports = {port["name"]: str(port["containerPort"]) for port in container["ports"]}
    assert ports == {"http": values["BIGNAS_PORT"], "probes": values["BIGNAS_PROBE_PORT"]}
    assert values["BIGNAS_CACHE_DIR"] in [mount["mountPath"] for mount in container["volumeMounts"]], "the cache would be read-only"
    drain_s = (int(values["BIGNAS_DRAIN_PAUSE_MS"]) + int(values["BIGNAS_DRAIN_LIMIT_MS"])) / 1000
    assert spec["terminationGracePeriodSeconds"] > drain_s, "the server would be killed while it drains"
    routes = json.loads((ROOT / "openapi/openapi.json").read_text(encoding="utf-8"))["paths"]
    asked = [container[probe]["httpGet"]["path"] for probe in ["startupProbe", "livenessProbe", "readinessProbe"]]
    asked += [endpoint["path"] for endpoint in documents["ServiceMonitor"]["spec"]["endpoints"]]
    assert all(path in routes for path in asked), f"one of {asked} is no route"


def check_kubelet(documents):
    """The kubelet starts the pods (it takes no user by name for not being root), can pin their cores, and keeps them."""
    spec = documents["Deployment"]["spec"]["template"]["spec"]
    assert spec["securityContext"]["runAsNonRoot"], "the pods may run as root"
    for name in ["Dockerfile", "Dockerfile.cuda"]:
        (user,) = re.findall(r"^USER (.+)$", (ROOT / "docker" / name).read_text(encoding="utf-8"), re.MULTILINE)
        assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user), f"{name}: {user} is no number other than root's"
    (container,), (volume,) = spec["containers"], spec["volumes"]
    resources = container["resources"]
    assert resources["requests"] == resources["limits"] and resources["limits"]["cpu"].isdigit(), "the pods get no cores of their own"
    options = (ROOT / "src/engine/options.rs").read_text(encoding="utf-8")
    (disk_limit,) = re.findall(r'"BIGNAS_DISK_LIMIT_BYTES",.* default_value_t = (\d+) << 30\)', options)
    (size_limit,) = re.findall(r"^(\d+)Gi$", volume["emptyDir"]["sizeLimit"])
    assert int(size_limit) > int(disk_limit), "the pods would be evicted for their caches"


def check_metrics(documents):
    """The autoscaler's metrics come from the adapter's rules, and those from the server."""
    import yaml

    values = yaml.safe_load((MANIFESTS / "prometheus-adapter/values.yaml").read_text(encoding="utf-8"))
    rules = values["rules"]["custom"]
    wanted = {metric["pods"]["metric"]["name"] for metric in documents["HorizontalPodAutoscaler"]["spec"]["metrics"]}
    assert wanted == {rule["name"]["as"] for rule in rules}, "the adapter does not give what the autoscaler wants"
    page = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
    for rule in rules:
        series = re.match(r"\w+", rule["seriesQuery"]).group().removesuffix("_bucket")
        assert f"| `{series}` |" in page, f"the server has no metric {series}"


def main():
    sys.path.insert(0, str(installed(REQUIREMENTS, "kubernetes-checker")))
    documents = read()
    for document in documents.values():
        check_schema(document)
    check_refusals(documents)
    check_references(documents)
    check_program(documents)
    check_kubelet(documents)
    check_metrics(documents)
    print(f"{len(documents)} manifests are valid for Kubernetes {' and '.join(VERSIONS)} and agree with each other and the program")


if __name__ == "__main__":
    main()
