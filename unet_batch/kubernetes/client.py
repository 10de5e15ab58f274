"""The API server of a Kubernetes cluster: the few calls we make, their errors translated once.

Every call may be made twice: names are chosen here, not by the server, so that an answer that
was lost is found again as a conflict with ourselves. Calls that cannot reach the server are
repeated for a while: an API server may be away for minutes while it is upgraded.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import kubernetes
import urllib3
import yaml
from kubernetes.client import ApiException, CoreV1Api, CustomObjectsApi
from kubernetes.config import ConfigException

from unet_batch.errors import ClusterError
from unet_batch.kubernetes.rayjob import ATTEMPT_LABEL, SUBMISSION_LABEL, Manifest
from unet_batch.kubernetes.watching import Head

T = TypeVar("T")

RAYJOBS = {"group": "ray.io", "version": "v1", "plural": "rayjobs"}
TIMEOUT_S = (5.0, 30.0)  # to connect, to answer
PASSING = frozenset({429, 500, 502, 503, 504})
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0
POD_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class AlreadyThereError(ClusterError):
    """An object of this name exists."""


class KubernetesClient:
    """RayJobs, their Specs and their heads in one namespace. Raises ClusterError."""

    def __init__(
        self,
        api: kubernetes.client.ApiClient,
        namespace: str,
        *,
        patience_s: float = 300.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._core, self._objects = CoreV1Api(api), CustomObjectsApi(api)
        self.namespace = namespace
        self._patience_s, self._sleep = patience_s, sleep

    def template(self, name: str) -> Manifest:
        """The RayJob in the chart's ConfigMap `name`."""
        found = self._call(f"ConfigMap {name!r}", self._core.read_namespaced_config_map, name=name)
        if found is None:
            raise ClusterError(
                f"no ConfigMap {name!r} in namespace {self.namespace!r}: is the chart installed"
                " there? Its name is <release>-rayjob; see --template and --namespace"
            )
        template = yaml.safe_load((found.data or {}).get("rayjob.yaml", ""))
        if not isinstance(template, dict):
            raise ClusterError(f"ConfigMap {name!r} holds no `rayjob.yaml`: not the chart's")
        return template

    def create(self, rayjob: Manifest, *, dry_run: bool = False) -> Manifest:
        """Post a RayJob; with `dry_run` the server checks it and makes none."""
        name = rayjob["metadata"]["name"]
        extra = {"dry_run": "All"} if dry_run else {}
        made: Manifest | None = self._call(
            f"RayJob {name!r}",
            self._objects.create_namespaced_custom_object,
            body=rayjob,
            **RAYJOBS,
            **extra,
        )
        if made is None:
            raise ClusterError(
                f"namespace {self.namespace!r} takes no RayJobs: it is not there, or KubeRay 1.7"
                " or newer is not installed (cluster/README.md)"
            )
        return made

    def create_map(self, config_map: Manifest) -> None:
        """Post a ConfigMap; one of this name that is there already is ours."""
        name = config_map["metadata"]["name"]
        try:
            self._call(
                f"ConfigMap {name!r}", self._core.create_namespaced_config_map, body=config_map
            )
        except AlreadyThereError:
            return

    def get(self, name: str) -> Manifest | None:
        """The RayJob, or None where there is none."""
        found: Manifest | None = self._call(
            f"RayJob {name!r}",
            self._objects.get_namespaced_custom_object,
            name=name,
            **RAYJOBS,
        )
        return found

    def latest(self, submission: str) -> Manifest | None:
        """The RayJob of a Submission's last attempt, or None."""
        found = self._call(
            "RayJobs",
            self._objects.list_namespaced_custom_object,
            label_selector=f"{SUBMISSION_LABEL}={submission}",
            **RAYJOBS,
        )
        return max((found or {}).get("items", []), key=_attempt, default=None)

    def delete(self, name: str) -> None:
        """Delete a RayJob, and with it its cluster; none of that name is as good."""
        self._call(
            f"RayJob {name!r}",
            self._objects.delete_namespaced_custom_object,
            name=name,
            **RAYJOBS,
        )

    def head(self, cluster: str) -> Head | None:
        """The head's pod of a RayCluster, or None where there is none."""
        if not cluster:
            return None
        selector = f"ray.io/cluster={cluster},ray.io/node-type=head"
        found = self._call("pods", self._core.list_namespaced_pod, label_selector=selector)
        pods = [] if found is None else found.items
        return Head.of([self._core.api_client.sanitize_for_serialization(pod) for pod in pods])

    def _call(self, what: str, method: Callable[..., T], **arguments: Any) -> T | None:
        """What the API answers, None where it knows no such object; patient with its absence."""
        waited, pause = 0.0, FIRST_PAUSE_S
        while True:
            try:
                return method(namespace=self.namespace, _request_timeout=TIMEOUT_S, **arguments)
            except ApiException as error:
                if error.status == 404:
                    return None
                if error.status not in PASSING or waited >= self._patience_s:
                    raise self._translate(what, error) from error
            except urllib3.exceptions.HTTPError as error:
                if waited >= self._patience_s:
                    raise ClusterError(
                        f"the Kubernetes API does not answer, for {waited:.0f} s: {error}"
                    ) from error
            self._sleep(pause)
            waited, pause = waited + pause, min(2 * pause, LONGEST_PAUSE_S)

    def _translate(self, what: str, error: ApiException) -> ClusterError:
        where, message = f"{what} in namespace {self.namespace!r}", _message(error)
        if error.status == 409:
            return AlreadyThereError(f"{where} is there already: {message}")
        if error.status == 401:
            return ClusterError(f"Kubernetes does not know who asks: {message}; log in again")
        if error.status == 403 and "quota" in message:
            return ClusterError(f"{where}: the namespace's quota is used up: {message}")
        if error.status == 403:
            return ClusterError(
                f"{where} is not allowed: {message}. The chart's Role <release>-submitter says"
                " what an account needs"
            )
        if error.status == 422:
            return ClusterError(f"{where} is refused as invalid: {message}")
        return ClusterError(f"{where}: the Kubernetes API answers {error.status}: {message}")


def connect(namespace: str | None = None) -> KubernetesClient:
    """A client for the cluster this pod runs in, else for that of the kubeconfig.

    `namespace` defaults to the pod's, or the kubeconfig's. Raises ClusterError where there is
    neither.
    """
    try:
        kubernetes.config.load_incluster_config()
        own = POD_NAMESPACE.read_text() if POD_NAMESPACE.exists() else None
    except ConfigException:
        own = _load_kubeconfig()
    return KubernetesClient(kubernetes.client.ApiClient(), namespace or own or "default")


def _load_kubeconfig() -> str | None:
    """Take the kubeconfig's cluster and user; its namespace."""
    try:
        kubernetes.config.load_kube_config()
        _, context = kubernetes.config.list_kube_config_contexts()
    except ConfigException as error:
        raise ClusterError(
            f"no Kubernetes cluster is configured: {error}; set KUBECONFIG"
        ) from error
    namespace: str | None = context["context"].get("namespace")
    return namespace


def _attempt(rayjob: Manifest) -> int:
    return int(rayjob["metadata"].get("labels", {}).get(ATTEMPT_LABEL, "1"))


def _message(error: ApiException) -> str:
    """The sentence in the API's answer."""
    try:
        return str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        return str(error.reason or error.status)
