"""What the chart renders is what Kubernetes, KubeRay and the Prometheus operator accept."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import kubernetes_validate
import pytest

if TYPE_CHECKING:
    from conftest import KubeRaySchema, Manifest, RenderedChart, Values

NEWEST = ("1.35.0", "1.36.0", "1.37.0")
"""The three newest minor versions of Kubernetes that kubernetes-validate knows."""

FOREIGN = re.compile(r"ray\.io|monitoring\.coreos\.com")


def native(rendered: RenderedChart) -> list[Manifest]:
    return [one for one in rendered.manifests if not FOREIGN.match(one["apiVersion"])]


def test_the_versions_tested_are_the_newest() -> None:
    major, minor = map(int, kubernetes_validate.latest_version().split(".")[:2])
    assert [version.rpartition(".")[0] for version in NEWEST] == [
        f"{major}.{minor - age}" for age in (2, 1, 0)
    ]


@pytest.mark.parametrize("version", NEWEST)
def test_kubernetes_accepts_every_object_strictly(rendered: RenderedChart, version: str) -> None:
    for manifest in native(rendered):
        kubernetes_validate.validate(manifest, version, strict=True)


def pods_of(rendered: RenderedChart) -> list[Manifest]:
    """Every pod that comes of it, Ray's too, as a Pod: KubeRay's schemas know no enums in them."""
    return [
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"pod-{k}"}, "spec": spec}
        for k, spec in enumerate(rendered.pod_specs())
    ]


def test_enums_and_quantities_are_right(
    rendered: RenderedChart, npm_validate: Callable[[list[Any]], list[str]]
) -> None:
    known = [one for one in rendered.manifests if not one["apiVersion"].startswith("ray.io")]
    assert npm_validate(known + pods_of(rendered)) == []


@pytest.mark.parametrize("version", NEWEST)
def test_kubernetes_accepts_the_pods_of_ray_clusters(rendered: RenderedChart, version: str) -> None:
    for pod in pods_of(rendered):
        kubernetes_validate.validate(pod, version, strict=True)


def test_kuberay_accepts_every_object_and_its_rules_hold(
    rendered: RenderedChart, kuberay: dict[str, KubeRaySchema]
) -> None:
    for kind, schema in kuberay.items():
        for manifest in rendered.all(kind):
            assert schema.problems(manifest) == []


def test_what_kuberay_checks_in_code_holds_too(rendered: RenderedChart) -> None:
    for kind, longest in (("RayCluster", 53), ("RayJob", 47), ("RayCronJob", 36)):
        for manifest in rendered.all(kind):
            assert re.fullmatch(rf"[a-z][a-z0-9-]{{0,{longest - 1}}}", manifest["metadata"]["name"])
    for cluster in rendered.cluster_specs():
        groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
        for group in groups:
            assert all(isinstance(value, str) for value in group["rayStartParams"].values())
            assert group["template"]["spec"]["restartPolicy"] == "Never"  # autoscaler v2 wants it
        assert tuple(map(int, cluster["rayVersion"].split("."))) >= (2, 52)  # for tokens


# ---- the judges themselves: each finds what is wrong -------------------------------------------


@pytest.fixture
def rayjob(render: Callable[..., RenderedChart]) -> Manifest:
    return copy.deepcopy(render().template)


def test_the_kuberay_schema_finds_unknown_fields_enums_and_broken_rules(
    rayjob: Manifest, kuberay: dict[str, KubeRaySchema]
) -> None:
    schema = kuberay["RayJob"]
    assert schema.problems(rayjob) == []
    rayjob["spec"]["rayClusterSpec"]["enableAutoscaling"] = True
    rayjob["spec"]["rayClusterSpec"]["authOptions"]["mode"] = "password"
    rayjob["spec"]["deletionStrategy"] = {"onSuccess": {"policy": "DeleteSelf"}}
    problems = "\n".join(schema.problems(rayjob))
    assert "'enableAutoscaling' was unexpected" in problems
    assert "'password' is not one of" in problems
    assert "deletionStrategy requires either BOTH onSuccess and onFailure" in problems


def test_npm_finds_a_wrong_enum_and_quantity(
    render: Callable[..., RenderedChart], npm_validate: Callable[[list[Any]], list[str]]
) -> None:
    policy = copy.deepcopy(render().one("NetworkPolicy", "ub"))
    policy["spec"]["policyTypes"] = ["Sideways"]
    claim = copy.deepcopy(render().one("PersistentVolumeClaim", "ub-data"))
    claim["spec"]["resources"]["requests"]["storage"] = "1TiB"
    problems = npm_validate([policy, claim])
    assert len(problems) == 2


def test_kubernetes_validate_finds_an_unknown_field(render: Callable[..., RenderedChart]) -> None:
    account = copy.deepcopy(render().one("ServiceAccount", "ub-worker"))
    account["automountToken"] = True
    with pytest.raises(kubernetes_validate.ValidationError, match="automountToken"):
        kubernetes_validate.validate(account, NEWEST[0], strict=True)


def test_two_helms_render_the_same(
    scenario: Values, rendered: RenderedChart, by_helm3: Callable[[Values], list[Manifest]]
) -> None:
    assert by_helm3(scenario) == rendered.manifests
