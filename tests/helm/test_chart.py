"""What the chart promises: security, least rights, recovery, queues, storage, monitoring."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from unet_batch.kubernetes.rayjob import SPEC_PATH, Submission

if TYPE_CHECKING:
    from conftest import RenderedChart

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "unet-batch"
Render = Callable[..., "RenderedChart"]
SPEC = {"archive": "/data/a", "model": "/data/m", "labels": "liver"}
JOBS = {"liver": {"kind": "segment", "spec": SPEC}}
RETRAIN = {
    "archive": "/data/a",
    "truth": "reference",
    "model": "organ",
    "registry": "/data/registry",
    "work": "/data/w",
}
NIGHTLY = {"retraining": {"enabled": True, "spec": RETRAIN, "timeZone": "Europe/Berlin"}}


# ---- security ---------------------------------------------------------------------------------


def test_every_container_fits_the_restricted_pod_security_standard(
    rendered: RenderedChart,
) -> None:
    for pod in rendered.pod_specs():
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        assert all("hostPath" not in volume for volume in pod["volumes"])
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "runAsNonRoot": True,
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "privileged": False,
                "capabilities": {"drop": ["ALL"]},
                "seccompProfile": {"type": "RuntimeDefault"},
            }
            assert container["resources"]["limits"]["memory"]


def test_the_containers_that_kuberay_adds_are_restricted_too(rendered: RenderedChart) -> None:
    for cluster in rendered.cluster_specs():
        if cluster["enableInTreeAutoscaling"]:
            context = cluster["autoscalerOptions"]["securityContext"]
            assert context["readOnlyRootFilesystem"]
            assert context["capabilities"] == {"drop": ["ALL"]}
    for job in rendered.all("RayJob"):
        assert job["spec"]["submissionMode"] == "HTTPMode"  # adds no submitter's container


def test_what_must_be_written_to_is_a_volume(rendered: RenderedChart) -> None:
    for pod in rendered.pod_specs():
        names = {volume["name"] for volume in pod["volumes"]}
        mounts = {m["mountPath"]: m["name"] for m in pod["containers"][0]["volumeMounts"]}
        assert set(mounts.values()) == names
        assert "/tmp" in mounts


def test_only_who_calls_the_api_has_a_token(render: Render) -> None:
    rendered = render({"jobs": JOBS} | NIGHTLY)
    for cluster in rendered.cluster_specs():
        assert cluster["headGroupSpec"]["template"]["spec"]["automountServiceAccountToken"] is True
        for group in cluster["workerGroupSpecs"]:
            assert group["template"]["spec"]["automountServiceAccountToken"] is False
    queued = render({"kueue": {"enabled": True, "queueName": "q"}}).template
    head = queued["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    assert head["automountServiceAccountToken"] is False


def test_the_submitter_may_do_what_its_code_does_and_no_more(render: Render) -> None:
    rules = render().one("Role", "ub-submitter")["rules"]
    allowed = {
        (resource, verb)
        for rule in rules
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    source = "".join(p.read_text() for p in (ROOT / "unet_batch" / "kubernetes").glob("*.py"))
    calls = {
        ("rayjobs", "create"): "create_namespaced_custom_object",
        ("rayjobs", "get"): "get_namespaced_custom_object",
        ("rayjobs", "list"): "list_namespaced_custom_object",
        ("rayjobs", "delete"): "delete_namespaced_custom_object",
        ("configmaps", "create"): "create_namespaced_config_map",
        ("configmaps", "get"): "read_namespaced_config_map",
        ("pods", "list"): "list_namespaced_pod",
    }
    assert allowed == set(calls)
    used = set(
        re.findall(r"\b(?:create|get|list|delete|read|patch|replace)_namespaced_\w+", source)
    )
    assert used == set(calls.values())
    (reading,) = [rule for rule in rules if rule["verbs"] == ["get"]]
    assert reading["resourceNames"] == ["ub-rayjob"]
    assert not render().all("ClusterRole")


def test_only_kuberay_prometheus_and_our_own_pods_may_come_in(render: Render) -> None:
    policy = render().one("NetworkPolicy", "ub")["spec"]
    ours, operator, prometheus = policy["ingress"]
    assert ours["from"] == [{"podSelector": policy["podSelector"]}]
    assert operator["ports"] == [{"protocol": "TCP", "port": 8265}]
    assert operator["from"][0]["namespaceSelector"]["matchLabels"] == {
        "kubernetes.io/metadata.name": "kuberay-operator"
    }
    scraped = {port["port"] for port in prometheus["ports"]}
    assert scraped == {8080, 9400, 44217, 44227}


def test_redis_may_be_reached_where_it_is_used(render: Render) -> None:
    redis = {"gcsFaultTolerance": {"enabled": True, "redisAddress": "redis.db:6380"}}
    ports = render({"cluster": redis}).one("NetworkPolicy", "ub")["spec"]["egress"][-1]["ports"]
    assert [one["port"] for one in ports] == [443, 6443, 6380]


def test_the_policy_and_the_monitors_select_every_pod(render: Render) -> None:
    rendered = render({"jobs": JOBS} | NIGHTLY)
    selected = rendered.one("NetworkPolicy", "ub")["spec"]["podSelector"]["matchLabels"]
    cron = rendered.one("CronJob", "ub-retrain")["spec"]["jobTemplate"]["spec"]["template"]
    groups = [
        group["template"]
        for cluster in rendered.cluster_specs()
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])
    ]
    for pod in [*groups, cron, rendered.one("Pod", "ub-test")]:
        assert selected.items() <= pod["metadata"]["labels"].items()
    monitors = [one["spec"]["selector"]["matchLabels"] for one in rendered.all("PodMonitor")]
    for pod in [*groups, cron]:
        assert sum(wanted.items() <= pod["metadata"]["labels"].items() for wanted in monitors) == 1


def test_ray_asks_for_a_token_the_charts_or_ones_own(render: Render) -> None:
    for cluster in render({"jobs": JOBS}).cluster_specs():
        assert cluster["authOptions"] == {"mode": "token"}  # KubeRay makes the Secret
    for cluster in render({"auth": {"existingSecret": "mine"}}).cluster_specs():
        assert cluster["authOptions"] == {"mode": "token", "secretName": "mine"}


# ---- jobs -------------------------------------------------------------------------------------


def test_a_job_dies_with_its_cluster_and_is_tried_again_on_another(render: Render) -> None:
    rendered = render({"jobs": JOBS})
    for job in rendered.all("RayJob"):
        spec = job["spec"]
        assert spec["backoffLimit"] == 3
        assert spec["shutdownAfterJobFinishes"] is True
        assert 0 < spec["preRunningDeadlineSeconds"] < spec["activeDeadlineSeconds"]
        assert "jobId" not in spec  # every try has a submission id of its own
        head = spec["rayClusterSpec"]["headGroupSpec"]
        assert head["template"]["spec"]["restartPolicy"] == "Never"
        assert head["rayStartParams"]["num-cpus"] == "0"


def test_the_chart_and_submit_make_the_same_rayjob(render: Render) -> None:
    rendered = render({"jobs": JOBS})
    ours = rendered.one("RayJob", "ub-liver")
    text = rendered.one("ConfigMap", "ub-liver")["data"]["spec.yaml"]
    assert yaml.safe_load(text) == SPEC
    submitted = Submission("ub-liver", "segment", text).rayjob(rendered.template)
    assert submitted["spec"] == ours["spec"]
    assert submitted["metadata"]["name"] == ours["metadata"]["name"]
    assert ours["metadata"]["labels"].items() <= submitted["metadata"]["labels"].items()


def test_all_ray_clusters_are_described_in_one_place(render: Render) -> None:
    rendered = render({"jobs": JOBS} | NIGHTLY)
    cluster = rendered.one("RayCluster", "ub")["spec"]
    job = rendered.one("RayJob", "ub-liver")["spec"]["rayClusterSpec"]
    pod = job["headGroupSpec"]["template"]["spec"]
    pod["volumes"] = [one for one in pod["volumes"] if one["name"] != "spec"]
    mounts = pod["containers"][0]["volumeMounts"]
    pod["containers"][0]["volumeMounts"] = [one for one in mounts if one["name"] != "spec"]
    assert job == cluster


def test_redis_is_for_the_long_lived_cluster_only(render: Render) -> None:
    redis = {"enabled": True, "redisAddress": "redis:6379", "existingSecret": "redis"}
    rendered = render({"jobs": JOBS, "cluster": {"gcsFaultTolerance": redis}})
    with_redis = [one for one in rendered.cluster_specs() if "gcsFaultToleranceOptions" in one]
    assert with_redis == [rendered.one("RayCluster", "ub")["spec"]]


def test_kueue_gets_labels_and_jobs_of_a_fixed_size(render: Render) -> None:
    queue = {"enabled": True, "queueName": "gpus", "priorityClass": "night"}
    rendered = render({"jobs": JOBS, "kueue": queue})
    for job in rendered.all("RayJob"):
        labels = job["metadata"]["labels"]
        assert labels["kueue.x-k8s.io/queue-name"] == "gpus"
        assert labels["kueue.x-k8s.io/priority-class"] == "night"
        cluster = job["spec"]["rayClusterSpec"]
        assert cluster["enableInTreeAutoscaling"] is False
        assert [group["replicas"] for group in cluster["workerGroupSpecs"]] == [4]
    assert rendered.one("RayCluster", "ub")["spec"]["enableInTreeAutoscaling"] is True


def test_gpus_are_limits_and_their_taint_is_tolerated(render: Render) -> None:
    (group,) = render().one("RayCluster", "ub")["spec"]["workerGroupSpecs"]
    pod = group["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in pod[
        "tolerations"
    ]
    amd = {"gpuResource": "amd.com/gpu", "gpus": 2}
    (group,) = render({"workerGroups": {"gpu": amd}}).one("RayCluster", "ub")["spec"][
        "workerGroupSpecs"
    ]
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits["amd.com/gpu"] == 2


# ---- retraining -------------------------------------------------------------------------------


def test_the_nightly_pod_waits_and_never_overlaps(render: Render) -> None:
    cron = render(NIGHTLY).one("CronJob", "ub-retrain")["spec"]
    assert (cron["timeZone"], cron["concurrencyPolicy"]) == ("Europe/Berlin", "Forbid")
    pod = cron["jobTemplate"]["spec"]["template"]["spec"]
    arguments = pod["containers"][0]["args"]
    assert arguments[:3] == ["submit", "/etc/unet-batch/spec.yaml", "--kubernetes"]
    assert "--wait" in arguments
    assert {"--kind=retrain", "--timeout=28800", "--restarts=1"} <= set(arguments)


def test_the_nightly_pods_arguments_are_those_of_the_command(render: Render) -> None:
    from typer.main import get_command

    from unet_batch.cli.app import app

    command = get_command(app).commands["submit"]  # type: ignore[attr-defined]
    known = {option for parameter in command.params for option in parameter.opts}
    cron = render(NIGHTLY).one("CronJob", "ub-retrain")["spec"]["jobTemplate"]["spec"]
    pods = [cron["template"]["spec"], render().one("Pod", "ub-test")["spec"]]
    for pod in pods:
        arguments = pod["containers"][0]["args"]
        assert {one.split("=")[0] for one in arguments if one.startswith("--")} <= known


def test_the_nightly_spec_is_one_that_retrain_takes(render: Render) -> None:
    from unet_batch.planning.specs.retrain import RetrainSpec

    text = render(NIGHTLY).one("ConfigMap", "ub-retrain")["data"]["spec.yaml"]
    assert RetrainSpec.model_validate(yaml.safe_load(text)).model == "organ"


def test_the_values_file_shows_a_spec_of_retraining_that_is_valid() -> None:
    from unet_batch.planning.specs.retrain import RetrainSpec

    lines = (CHART / "values.yaml").read_text().split("\nretraining:\n")[1].splitlines()
    shown = [line[1:] for line in lines if line.startswith("#    ")]
    assert RetrainSpec.model_validate(yaml.safe_load("\n".join(shown))).published == "liver"


def test_the_result_of_the_rayjob_is_final_and_an_eviction_is_not(render: Render) -> None:
    job = render(NIGHTLY).one("CronJob", "ub-retrain")["spec"]["jobTemplate"]["spec"]
    (told,) = [rule for rule in job["podFailurePolicy"]["rules"] if rule["action"] == "FailJob"]
    assert told["onExitCodes"]["values"] == [1]  # 2: refused; a quota may be free again
    assert job["template"]["spec"]["restartPolicy"] == "Never"  # podFailurePolicy wants it
    assert "--name=$(RUN)" in job["template"]["spec"]["containers"][0]["args"]


def test_kuberays_own_cron_is_an_option(render: Render) -> None:
    values = {"retraining": NIGHTLY["retraining"] | {"kind": "RayCronJob"}}
    rendered = render(values)
    assert not rendered.all("CronJob")
    cron = rendered.one("RayCronJob", "ub-retrain")["spec"]
    assert cron["timeZone"] == "Europe/Berlin"
    assert cron["jobTemplate"]["entrypoint"] == f"unet-batch retrain --spec {SPEC_PATH} --ray auto"
    assert cron["jobTemplate"]["activeDeadlineSeconds"] == 28800


# ---- storage and monitoring -------------------------------------------------------------------


def mounts_of(pod: dict[str, Any]) -> dict[str, str]:
    return {m["name"]: m["mountPath"] for m in pod["containers"][0]["volumeMounts"]}


def test_a_claim_is_made_kept_and_mounted_by_all_nodes(render: Render) -> None:
    rendered = render()
    claim = rendered.one("PersistentVolumeClaim", "ub-data")
    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    cluster = rendered.one("RayCluster", "ub")["spec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert mounts_of(group["template"]["spec"])["data"] == "/data"
    assert not render({"storage": {"pvc": {"existingClaim": "a"}}}).all("PersistentVolumeClaim")


def test_an_object_store_needs_no_volume_but_a_secret_or_a_role(render: Render) -> None:
    annotations = {"eks.amazonaws.com/role-arn": "arn"}
    store = {"secret": "s3", "serviceAccountAnnotations": annotations}
    rendered = render({"storage": {"type": "objectStore", "objectStore": store}})
    assert not rendered.all("PersistentVolumeClaim")
    for pod in (p for p in rendered.pod_specs() if "shm" in mounts_of(p)):
        assert "data" not in mounts_of(pod)
        assert pod["containers"][0]["envFrom"] == [{"secretRef": {"name": "s3"}}]
    assert rendered.one("ServiceAccount", "ub-worker")["metadata"]["annotations"] == annotations
    assert "annotations" not in rendered.one("ServiceAccount", "ub-submitter")["metadata"]


def test_prometheus_scrapes_ray_the_autoscaler_the_dashboard_and_the_driver(
    render: Render,
) -> None:
    rendered = render(NIGHTLY)
    monitor = rendered.one("PodMonitor", "ub-ray")["spec"]
    ports = {one["port"] for one in monitor["podMetricsEndpoints"]}
    head = rendered.one("RayCluster", "ub")["spec"]["headGroupSpec"]["template"]["spec"]
    declared = {one["name"]: one["containerPort"] for one in head["containers"][0]["ports"]}
    assert {declared[name] for name in ports} == {8080, 44217, 44227, 9400}
    assert all(one["honorLabels"] for one in monitor["podMetricsEndpoints"])
    environment = {e["name"]: e.get("value") for e in head["containers"][0]["env"]}
    assert environment["UNET_BATCH_METRICS_PORT"] == str(declared["driver"])


def test_the_rules_and_dashboards_are_the_charts_files_unchanged(render: Render) -> None:
    rendered = render({"jobs": JOBS})
    rules = yaml.safe_load((CHART / "rules" / "unet-batch.yaml").read_text())
    assert rendered.one("PrometheusRule", "ub")["spec"] == rules
    for path in (CHART / "dashboards").glob("*.json"):
        shown = rendered.one("ConfigMap", f"ub-dashboard-{path.stem}")
        assert shown["metadata"]["labels"]["grafana_dashboard"] == "1"
        assert json.loads(shown["data"][path.name]) == json.loads(path.read_text())


def test_helm_test_asks_the_api_server_and_makes_nothing(render: Render) -> None:
    rendered = render()
    pod = rendered.one("Pod", "ub-test")
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    assert "--dry-run" in pod["spec"]["containers"][0]["args"]
    from unet_batch.planning.specs.segment import SegmentSpec

    text = rendered.one("ConfigMap", "ub-test")["data"]["spec.yaml"]
    SegmentSpec.model_validate(yaml.safe_load(text))


@pytest.mark.parametrize("kind", ["segment", "train", "evaluate", "retrain"])
def test_the_entrypoint_of_each_kind_is_a_command(kind: str) -> None:
    from typer.main import get_command

    from unet_batch.cli.app import app

    commands = get_command(app).commands  # type: ignore[attr-defined]
    if kind not in commands:
        pytest.skip(f"unet-batch {kind} is not there yet")
    known = {option for parameter in commands[kind].params for option in parameter.opts}
    assert {"--spec", "--ray"} <= known
