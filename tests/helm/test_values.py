"""Wrong values are refused by name before anything is installed; right ones are all written."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from helm_python import Chart, HelmError, lint

if TYPE_CHECKING:
    from conftest import RenderedChart

CHART = Path(__file__).parents[2] / "helm" / "unet-batch"
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown name": ({"workergroups": {}}, "workergroups"),
    "an unknown name inside": ({"head": {"memmory": "1Gi"}}, "memmory"),
    "an enum": ({"storage": {"type": "nfs"}}, "/storage/type"),
    "a pull policy": ({"image": {"pullPolicy": "Sometimes"}}, "/image/pullPolicy"),
    "a kind of retraining": ({"retraining": {"kind": "Cron"}}, "/retraining/kind"),
    "a schedule": ({"retraining": {"schedule": "at night"}}, "/retraining/schedule"),
    "a time zone": ({"retraining": {"timeZone": "+2"}}, "/retraining/timeZone"),
    "memory without a unit": ({"head": {"memory": "16"}}, "/head/memory"),
    "CPUs as a number": ({"head": {"cpu": 4}}, "/head/cpu"),
    "a Ray without tokens": ({"rayVersion": "2.51.0"}, "/rayVersion"),
    "a negative number": ({"jobDefaults": {"backoffLimit": -1}}, "/jobDefaults/backoffLimit"),
    "a kind of job": ({"jobs": {"a": {"kind": "paint", "spec": {"a": 1}}}}, "/jobs/a/kind"),
    "a job without a Spec": ({"jobs": {"a": {"kind": "segment"}}}, "/jobs/a"),
    "a job's name": ({"jobs": {"My_Job": {"kind": "segment", "spec": {"a": 1}}}}, "My_Job"),
    "a group's name": ({"workerGroups": {"GPU": VALUES["workerGroups"]["gpu"]}}, "GPU"),
    "half a group": ({"workerGroups": {"big": {"enabled": True}}}, "/workerGroups/big"),
    "a toleration": (
        {"head": {"tolerations": [{"key": "a", "effect": "NoRun"}]}},
        "/head/tolerations/0/effect",
    ),
    "a GPU resource": (
        {"workerGroups": {"gpu": {"gpuResource": "nvidia"}}},
        "/workerGroups/gpu/gpuResource",
    ),
    "a label that is no string": (
        {"monitoring": {"labels": {"release": 1}}},
        "/monitoring/labels/release",
    ),
    "a mount path": ({"storage": {"mountPath": "data"}}, "/storage/mountPath"),
}

CONTRADICTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "Kueue without a queue": ({"kueue": {"enabled": True}}, "kueue.queueName"),
    "fault tolerance without Redis": (
        {"cluster": {"gcsFaultTolerance": {"enabled": True}}},
        "cluster.gcsFaultTolerance.redisAddress",
    ),
    "retraining of nothing": ({"retraining": {"enabled": True}}, "retraining.spec"),
    "more at least than at most": (
        {"workerGroups": {"gpu": {"minReplicas": 5}}},
        "workerGroups.gpu: minReplicas 5 is more than maxReplicas 4",
    ),
    "a job whose name is too long": (
        {"jobs": {"a" * 46: {"kind": "segment", "spec": {"a": 1}}}},
        "longer than KubeRay's 47 characters",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_value_is_refused_by_name(name: str, render: Callable[..., RenderedChart]) -> None:
    values, named = WRONG[name]
    with pytest.raises(HelmError, match=re.escape(named)):
        render(values)


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_values_that_contradict_each_other_are_refused_with_what_to_do(
    name: str, render: Callable[..., RenderedChart]
) -> None:
    values, said = CONTRADICTIONS[name]
    with pytest.raises(HelmError, match=re.escape(said)):
        render(values)


@pytest.mark.parametrize("release", ["1ub", "Ub", "ub_a"])
def test_a_release_name_that_no_service_may_have_is_refused(
    release: str, render: Callable[..., RenderedChart]
) -> None:
    with pytest.raises(HelmError, match=r"begin with a letter|invalid"):
        render(release=release)


def test_a_long_release_name_leaves_names_that_kuberay_allows(
    render: Callable[..., RenderedChart],
) -> None:
    values = {"retraining": {"enabled": True, "kind": "RayCronJob", "spec": {"a": 1}}}
    rendered = render(values, release="a-very-long-release-name-for-a-segmentation")
    (cron,) = rendered.all("RayCronJob")
    assert len(cron["metadata"]["name"]) <= 36


def test_lint_has_nothing_to_say_but_the_icon() -> None:
    found = lint(str(CHART), strict=True)
    assert found["errors"] == []
    assert [one["error"] for one in found["messages"]] == ["icon is recommended"]


def paths(value: Any, at: str = "") -> Iterator[str]:
    if isinstance(value, dict) and value:
        for key, child in value.items():
            yield from paths(child, f"{at}.{key}" if at else key)
    else:
        yield at


def test_every_value_is_read_by_a_template() -> None:
    templates = "".join(path.read_text() for path in (CHART / "templates").rglob("*.*"))
    unread = [p for p in paths(VALUES) if not re.search(rf"\.{p.rpartition('.')[2]}\b", templates)]
    # The keys of maps that are passed on as they are, and of the groups, which are ranged over.
    assert set(unread) <= {"monitoring.dashboardLabels.grafana_dashboard"}


def test_every_value_has_a_place_in_the_schema() -> None:
    with Chart.load(CHART) as chart:
        schema = chart.schema
        chart.validate_schema({})
    assert schema is not None
    assert set(schema["properties"]) - {"global"} == set(VALUES)


def test_the_cpu_profile_asks_for_no_gpu(render: Callable[..., RenderedChart]) -> None:
    rendered = render(yaml.safe_load((CHART / "values-cpu.yaml").read_text()))
    for cluster in rendered.cluster_specs():
        assert [group["groupName"] for group in cluster["workerGroupSpecs"]] == ["cpu"]
    assert "nvidia.com/gpu" not in str(rendered.manifests)
