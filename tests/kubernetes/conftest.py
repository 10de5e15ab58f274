"""An emulated Kubernetes API on loopback, spoken to by the real client, and a KubeRay to play."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import kmock
import kubernetes
import pytest
import yaml
from aiohttp import web

from unet_batch.kubernetes.client import KubernetesClient

NAMESPACE = "seg"
RAYJOBS = kmock.resource("ray.io", "v1", "rayjobs")
PODS = kmock.resource("", "v1", "pods")
MAPS = kmock.resource("", "v1", "configmaps")

TEMPLATE = """
apiVersion: ray.io/v1
kind: RayJob
metadata: {name: ub, labels: {app.kubernetes.io/part-of: unet-batch}}
spec:
  entrypoint: unet-batch segment --spec /etc/unet-batch/spec.yaml --ray auto
  rayClusterSpec:
    headGroupSpec:
      template: {spec: {volumes: [{name: tmp}, {name: spec, configMap: {name: set-by-submit}}]}}
"""


class Emulator(kmock.KubernetesEmulator):
    """kmock, with what the client relies on besides: uids, label selectors, dry runs, failures."""

    failures: list[tuple[Any, Any, int, str]]

    async def _handle(self, request: Any) -> Any:
        for failure in self.failures:
            action, resource, code, message = failure
            if (request.action, request.resource) == (action, resource):
                self.failures.remove(failure)
                body = {"kind": "Status", "code": code, "message": message}
                return web.json_response(body, status=code)
        if request.action == kmock.action.CREATE and request.resource is not None:
            if request.params.get("dryRun") == "All":
                return web.json_response(request.data, status=201)
            request.data["metadata"]["uid"] = "uid-" + request.data["metadata"]["name"]
        return await super()._handle(request)

    async def _serve_list(self, request: Any) -> Any:
        answer = await super()._serve_list(request)
        pairs = [
            one.split("=") for one in request.params.get("labelSelector", "").split(",") if one
        ]
        items = [
            item
            for item in answer["items"]
            if all(item["metadata"].get("labels", {}).get(key) == value for key, value in pairs)
        ]
        return answer | {"items": items}


class Cluster:
    """The emulator in a thread of its own, and the moves of KubeRay and of fate."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.api = Emulator()
        self.api.failures = []
        self._server = kmock.Server(self.api)
        self._do(self.api.__aenter__())
        self._do(self._server.__aenter__())
        self.url = str(self._server.url).rstrip("/")
        self.now = 0.0
        self.script: list[Callable[[], None]] = []

    def close(self) -> None:
        self._do(self._server.__aexit__(None, None, None))
        self._do(self.api.__aexit__(None, None, None))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    def client(self, **options: Any) -> KubernetesClient:
        configuration = kubernetes.client.Configuration(host=self.url)
        configuration.retries = False
        api = kubernetes.client.ApiClient(configuration)
        return KubernetesClient(api, NAMESPACE, sleep=self.sleep, **options)

    def sleep(self, seconds: float) -> None:
        """Time passes, and the next thing happens."""
        self.now += seconds
        if self.script:
            self.script.pop(0)()

    def clock(self) -> float:
        return self.now

    def add(self, resource: Any, manifest: dict[str, Any]) -> None:
        self.api.objects[resource, NAMESPACE, manifest["metadata"]["name"]] = manifest

    def rayjob(self, name: str) -> dict[str, Any]:
        return dict(self.api.objects[RAYJOBS, NAMESPACE, name].raw)

    def names(self, resource: Any) -> set[str]:
        return {
            key[2]
            for key, one in self.api.objects.items()
            if key[0] == resource and not one.deleted
        }

    def kuberay_says(self, name: str, deployment: str, job: str = "", **more: Any) -> None:
        status = {"jobDeploymentStatus": deployment, "jobStatus": job, **more}
        self.api.objects[RAYJOBS, NAMESPACE, name].patch({"status": status})

    def head_is(self, cluster: str, phase: str, *, uid: str = "h1", restarts: int = 0) -> None:
        labels = {"ray.io/cluster": cluster, "ray.io/node-type": "head"}
        status = {
            "phase": phase,
            "containerStatuses": [
                {
                    "name": "ray-head",
                    "restartCount": restarts,
                    "image": "i",
                    "imageID": "i",
                    "ready": True,
                }
            ],
        }
        metadata = {"name": f"{cluster}-head", "labels": labels, "uid": uid}
        self.add(PODS, {"metadata": metadata, "status": status})

    def fail(self, action: Any, resource: Any, code: int, message: str, times: int = 1) -> None:
        """The next calls of this kind fail so."""
        self.api.failures += [(action, resource, code, message)] * times

    def lose(self, resource: Any, name: str) -> None:
        self.api.objects[resource, NAMESPACE, name].delete()


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """An emulated cluster where the chart is installed as release `ub`."""
    cluster = Cluster()
    data = {"rayjob.yaml": yaml.safe_dump(yaml.safe_load(TEMPLATE))}
    cluster.add(MAPS, {"metadata": {"name": "ub-rayjob"}, "data": data})
    cluster.api.resources[RAYJOBS] = {"namespaced": True, "kind": "RayJob", "verbs": ["create"]}
    cluster.api.resources[PODS] = {"namespaced": True, "kind": "Pod", "verbs": ["list"]}
    yield cluster
    cluster.close()
