"""Images, compose, Prometheus, Grafana and `ray up`: as far as files can be judged unbuilt."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from dashboards.queries import load
from dockerfile_parse import DockerfileParser

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
COMPOSE = yaml.safe_load((CLUSTER / "compose.yaml").read_text())
NPM = ROOT / "tests" / "helm" / "node_modules"
EXACT_TAG = re.compile(r"^[a-z0-9./-]+:v?\d+\.\d+\.\d+[a-z0-9.-]*$")


# ---- images -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stages() -> dict[str, list[dict[str, Any]]]:
    """The instructions of each stage of the Dockerfile, by its name."""
    parser = DockerfileParser(path=str(CLUSTER / "Dockerfile"), cache_content=True)
    found: dict[str, list[dict[str, Any]]] = {}
    for one in parser.structure:
        if one["instruction"] == "FROM":
            name = one["value"].split(" AS ")[1]
            found[name] = []
        if found:
            found[name].append(one)
    return found


def values(stage: list[dict[str, Any]], instruction: str) -> list[str]:
    return [one["value"] for one in stage if one["instruction"] == instruction]


def test_every_base_is_pinned_by_its_exact_version(stages: dict[str, Any]) -> None:
    for stage in stages.values():
        base = values(stage, "FROM")[0].split(" AS ")[0]
        assert base in stages or EXACT_TAG.match(base), base


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_an_image_ends_as_a_user_without_rights_and_runs_the_command(
    stages: dict[str, Any], target: str
) -> None:
    stage = stages[target]
    assert values(stage, "USER") == ["10001:10001"]
    assert values(stage, "ENTRYPOINT") == ['["unet-batch"]']
    last_run = max(k for k, one in enumerate(stage) if one["instruction"] == "RUN")
    assert last_run < next(k for k, one in enumerate(stage) if one["instruction"] == "USER")


def test_the_user_is_the_charts(stages: dict[str, Any]) -> None:
    helper = (ROOT / "helm" / "unet-batch" / "templates" / "_pods.tpl").read_text()
    assert "runAsUser: 10001" in helper
    assert "--uid 10001" in "".join(values(stages["base"], "RUN"))


def test_images_are_labelled_and_leave_no_caches(stages: dict[str, Any]) -> None:
    (labels,) = values(stages["base"], "LABEL")
    for name in ("title", "description", "version", "licenses"):
        assert f"org.opencontainers.image.{name}" in labels
    for stage in stages.values():
        for run in values(stage, "RUN"):
            assert run.count("pip ") == run.count("--no-cache-dir")
            assert "apt-get install" not in run or "rm -rf /var/lib/apt/lists" in run


def test_what_is_copied_is_let_through_and_nothing_else(stages: dict[str, Any]) -> None:
    ignore = (CLUSTER / "Dockerfile.dockerignore").read_text().splitlines()
    let_through = {line[1:] for line in ignore if line.startswith("!")}
    copied = set()
    for stage in stages.values():
        for copy in values(stage, "COPY"):
            if not copy.startswith("--from"):
                copied |= set(copy.split()[:-1])
    assert copied == let_through
    assert "*" in ignore
    assert all((ROOT / path).exists() for path in copied)


def test_the_extras_that_images_install_are_there(stages: dict[str, Any]) -> None:
    import tomllib

    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    runs = "".join(run for stage in stages.values() for run in values(stage, "RUN"))
    asked = {
        extra for found in re.findall(r"\.whl\)\[([\w,]+)\]", runs) for extra in found.split(",")
    }
    assert asked == {"kubernetes", "openvino"}
    assert asked <= set(known)


def test_a_linter_finds_nothing_in_the_dockerfile() -> None:
    lint = NPM / ".bin" / "dockerfile-utils"
    if not lint.exists():
        pytest.skip("npm's dockerfile-utils is not here: npm ci --prefix tests/helm")
    done = subprocess.run(
        [lint, "lint", "-j", CLUSTER / "Dockerfile"], capture_output=True, text=True, check=False
    )
    assert json.loads(done.stdout or "[]") == []


# ---- compose ----------------------------------------------------------------------------------


def test_compose_is_what_its_specification_says() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run(
        [*command, CLUSTER / "compose.yaml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_a_service_is_pinned_harmless_and_reachable_from_this_machine_only(name: str) -> None:
    service = COMPOSE["services"][name]
    assert EXACT_TAG.match(service["image"])
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


def test_what_compose_mounts_is_there() -> None:
    for service in COMPOSE["services"].values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith(".") and "${" not in source:
                assert (CLUSTER / source).exists(), source


@pytest.mark.parametrize("name", ["head", "worker"])
def test_ray_is_started_with_options_it_has(name: str) -> None:
    from ray.scripts.scripts import start

    known = {option for parameter in start.params for option in parameter.opts}
    arguments = COMPOSE["services"][name]["entrypoint"]
    assert arguments[:2] == ["ray", "start"]
    assert {one.split("=")[0] for one in arguments[2:]} <= known
    assert COMPOSE["services"][name]["environment"]["RAY_AUTH_MODE"] == "token"


def test_prometheus_accepts_its_configuration() -> None:
    promtool = shutil.which("promtool")
    if not promtool:
        pytest.skip("promtool is not here: apt-get install prometheus")
    path = CLUSTER / "prometheus" / "prometheus.yml"
    done = subprocess.run(
        [promtool, "check", "config", "--syntax-only", path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_prometheus_scrapes_services_that_are_there_on_ports_they_have() -> None:
    (scrape,) = yaml.safe_load((CLUSTER / "prometheus" / "prometheus.yml").read_text())[
        "scrape_configs"
    ]
    targets = [one for group in scrape["static_configs"] for one in group["targets"]]
    assert targets == ["head:8080", "head:9400"]
    assert scrape["dns_sd_configs"][0]["names"] == ["worker"]
    assert COMPOSE["services"]["head"]["environment"]["UNET_BATCH_METRICS_PORT"] == "9400"


def test_grafana_finds_prometheus_and_the_charts_dashboards() -> None:
    provisioning = CLUSTER / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text())[
        "datasources"
    ]
    assert source["url"] == "http://prometheus:9090"
    assert source["type"] == load()["Quality"]["templating"]["list"][0]["query"]
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "unet-batch.yaml").read_text())[
        "providers"
    ]
    mounts = dict(v.split(":")[:2] for v in COMPOSE["services"]["grafana"]["volumes"])
    inside = {target: CLUSTER / source for source, target in mounts.items()}
    folder = inside[provider["options"]["path"]].resolve()
    assert folder == ROOT / "helm" / "unet-batch" / "dashboards"


# ---- ray up -----------------------------------------------------------------------------------


def test_ray_accepts_the_cluster_file() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((CLUSTER / "ray-cluster.yaml").read_text())
    validate_config(prepare_config(config))


def test_the_cluster_file_and_compose_run_the_same_ray() -> None:
    config = yaml.safe_load((CLUSTER / "ray-cluster.yaml").read_text())
    start = config["head_start_ray_commands"][-1]
    for option in ("--num-cpus=0", "--metrics-export-port=8080", "RAY_AUTH_MODE=token"):
        assert option in start
    assert "--dashboard-host=127.0.0.1" in start
