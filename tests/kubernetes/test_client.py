"""The real Kubernetes client against an emulated API: every refusal becomes one clear sentence."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import kmock
import kubernetes
import pytest
import yaml

from unet_batch.errors import ClusterError
from unet_batch.kubernetes.client import AlreadyThereError, KubernetesClient, connect

if TYPE_CHECKING:
    from conftest import Cluster

RAYJOBS = kmock.resource("ray.io", "v1", "rayjobs")
CREATE, FETCH = kmock.action.CREATE, kmock.action.FETCH


def rayjob(name: str = "a", attempt: int = 1) -> dict[str, object]:
    labels = {"unet-batch/submission": "a", "unet-batch/attempt": str(attempt)}
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": name, "labels": labels},
    }


def test_a_rayjob_is_made_found_and_deleted(cluster: Cluster) -> None:
    client = cluster.client()
    client.create(rayjob())
    found = client.get("a")
    assert found is not None
    assert found["metadata"]["uid"] == "uid-a"
    client.delete("a")
    assert client.get("a") is None
    client.delete("a")


def test_the_last_attempt_of_a_submission_counts(cluster: Cluster) -> None:
    client = cluster.client()
    for attempt in (1, 2, 10, 3):
        client.create(rayjob(f"a-{attempt}", attempt))
    latest = client.latest("a")
    assert latest is not None
    assert latest["metadata"]["name"] == "a-10"
    assert client.latest("b") is None


def test_a_dry_run_makes_nothing(cluster: Cluster) -> None:
    cluster.client().create(rayjob(), dry_run=True)
    assert cluster.names(RAYJOBS) == set()


def test_a_name_that_is_taken_is_its_own_error(cluster: Cluster) -> None:
    client = cluster.client()
    client.create(rayjob())
    with pytest.raises(AlreadyThereError, match="RayJob 'a' in namespace 'seg' is there already"):
        client.create(rayjob())


REFUSALS = {
    403: ("exceeded quota: gpus, requested: 4", "the namespace's quota is used up: exceeded"),
    422: ("spec.entrypoint: too long", "is refused as invalid: spec.entrypoint"),
    401: ("Unauthorized", "does not know who asks"),
    418: ("teapot", "the Kubernetes API answers 418: teapot"),
}


@pytest.mark.parametrize("code", REFUSALS)
def test_a_refusal_says_what_and_why(cluster: Cluster, code: int) -> None:
    message, said = REFUSALS[code]
    cluster.fail(CREATE, RAYJOBS, code, message)
    with pytest.raises(ClusterError, match=said):
        cluster.client().create(rayjob())


def test_what_is_forbidden_points_to_the_role(cluster: Cluster) -> None:
    cluster.fail(CREATE, RAYJOBS, 403, 'User "bob" cannot create resource "rayjobs"')
    with pytest.raises(ClusterError, match=r"is not allowed: User.*<release>-submitter"):
        cluster.client().create(rayjob())


def test_a_cluster_without_kuberay_is_named(cluster: Cluster) -> None:
    cluster.fail(CREATE, RAYJOBS, 404, "the server could not find the requested resource")
    with pytest.raises(ClusterError, match=r"takes no RayJobs: .* KubeRay"):
        cluster.client().create(rayjob())


def test_an_api_that_is_away_for_a_while_is_waited_for(cluster: Cluster) -> None:
    client = cluster.client()
    client.create(rayjob())
    cluster.fail(FETCH, RAYJOBS, 503, "upgrading", times=4)
    assert client.get("a") is not None
    assert cluster.now == 1 + 2 + 4 + 8


def test_an_api_that_stays_away_ends_the_wait(cluster: Cluster) -> None:
    cluster.fail(FETCH, RAYJOBS, 503, "upgrading", times=99)
    with pytest.raises(ClusterError, match="answers 503: upgrading"):
        cluster.client(patience_s=100).get("a")
    assert 100 <= cluster.now < 200


def test_a_server_that_is_not_there_is_named() -> None:
    configuration = kubernetes.client.Configuration(host="http://127.0.0.1:9")
    configuration.retries = False
    api = kubernetes.client.ApiClient(configuration)
    client = KubernetesClient(api, "seg", patience_s=0, sleep=lambda _: None)
    with pytest.raises(ClusterError, match=r"does not answer.*127\.0\.0\.1"):
        client.get("a")


def test_the_template_is_the_charts(cluster: Cluster) -> None:
    assert cluster.client().template("ub-rayjob")["kind"] == "RayJob"
    with pytest.raises(
        ClusterError, match=r"no ConfigMap 'other-rayjob' .* is the chart installed"
    ):
        cluster.client().template("other-rayjob")


def test_a_head_is_found_by_its_cluster(cluster: Cluster) -> None:
    cluster.head_is("c1", "Running", restarts=2)
    cluster.head_is("c2", "Failed")
    head = cluster.client().head("c1")
    assert head is not None
    assert (head.is_alive, head.restarts) == (True, 2)
    assert cluster.client().head("c3") is None
    assert cluster.client().head("") is None


def write_kubeconfig(folder: Path, url: str) -> Path:
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [{"name": "c", "cluster": {"server": url}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [
            {"name": "test", "context": {"cluster": "c", "user": "u", "namespace": "seg"}}
        ],
    }
    (folder / "config").write_text(yaml.safe_dump(content))
    return folder / "config"


def test_the_kubeconfig_says_which_cluster_and_namespace(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_kubeconfig(tmp_path, cluster.url)
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(path))
    client = connect()
    assert client.namespace == "seg"
    assert client.template("ub-rayjob")["kind"] == "RayJob"
    assert connect("other").namespace == "other"


def test_no_cluster_at_all_is_a_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = str(tmp_path / "none")
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", nowhere)
    with pytest.raises(ClusterError, match="no Kubernetes cluster is configured"):
        connect()
