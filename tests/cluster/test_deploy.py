"""The judge by Serve's own commands on a cluster that was there before: run, deployed, updated, scaled."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from pipelines.hosting import SERVE_ENVIRONMENT

pytestmark = pytest.mark.thorough

BIN = Path(sys.executable).parent
CONFIG = Path(__file__).parents[2] / "cluster" / "serve.yaml"
PAIR = {"prompt": "Which?", "response_a": "this", "response_b": "that", "order": "ab"}


def free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    found = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return found


HEAD = """
import signal, sys, ray
context = ray.init(address="local", num_cpus=8, include_dashboard=True, dashboard_port=int(sys.argv[1]))
print("gcs", context.address_info["gcs_address"], "dashboard", context.dashboard_url, "ready", flush=True)
signal.pause()
"""


class Cluster:
    """A head node with a dashboard, on ports of its own."""

    def __init__(self, start: Callable[..., Any], folder: Path):
        dashboard, self.port = free_ports(2)
        environment = SERVE_ENVIRONMENT | {"RAY_DASHBOARD_SUBPROCESS_MODULE_WAIT_READY_TIMEOUT": "200"}
        self.command = start(sys.executable, "-c", HEAD, dashboard, cwd=folder, **environment)
        (said,) = [line for line in self.command.says(" ready\n").splitlines() if line.startswith("gcs ")]
        _, self.gcs, _, dashboard, _ = said.split()
        self.dashboard = f"http://{dashboard}"
        self.url = f"http://127.0.0.1:{self.port}"
        self.folder = folder

    def until(self, holds: Callable[[], bool], timeout_s: float = 400) -> None:
        ends = time.monotonic() + timeout_s
        while True:
            try:
                if holds():
                    return
            except httpx.HTTPError:
                pass
            assert time.monotonic() < ends, self.command.said
            time.sleep(0.3)

    def deploy(self, config: dict[str, Any]) -> None:
        file = self.folder / "serve.yaml"
        file.write_text(yaml.safe_dump(config))
        command = [BIN / "serve", "deploy", file, "--address", self.dashboard]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def application(self) -> dict[str, Any]:
        answer = httpx.get(f"{self.dashboard}/api/serve/applications/", timeout=60)
        return answer.json()["applications"].get("judge", {})

    def running(self) -> bool:
        found = self.application()
        assert found.get("status") != "DEPLOY_FAILED", json.dumps(found)
        return found.get("status") == "RUNNING"

    def replicas(self) -> set[str]:
        found = self.application()["deployments"]["Judge"]["replicas"]
        return {replica["replica_id"] for replica in found if replica["state"] == "RUNNING"}


@pytest.fixture(scope="module")
def cluster(start: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    return Cluster(start, tmp_path_factory.mktemp("cluster"))


@pytest.fixture(scope="module")
def config(cluster: Cluster, first_is_better: Path) -> dict[str, Any]:
    """The project's configuration, for this cluster and this judge."""
    values = yaml.safe_load(CONFIG.read_text())
    values["http_options"]["port"] = cluster.port
    values["applications"][0]["args"] |= {"model": str(first_is_better), "rollout": {"kv_cache_gib": 0.2}}
    return values


def judged(url: str) -> dict[str, Any]:
    answer = httpx.post(f"{url}/judge", json=PAIR, timeout=120)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_serve_run_takes_the_builder_and_arguments(
    start: Callable[..., Any], cluster: Cluster, first_is_better: Path
) -> None:
    run = [BIN / "serve", "start", "--address", cluster.gcs, "--http-port", str(cluster.port)]
    subprocess.run(run, check=True, timeout=300, capture_output=True)
    arguments = [f"model={first_is_better}", "serve.limits.responses=5", "rollout.kv_cache_gib=0.2"]
    command = start(BIN / "serve", "run", "--address", cluster.gcs, "--name=judge", "pipelines.serve:app", *arguments)
    cluster.until(cluster.running)
    assert judged(cluster.url)["verdict"] == "a"
    version = httpx.get(f"{cluster.url}/version").json()
    assert (version["version"], version["limits"]["responses"]) == (7, 5)
    command.stop()


def test_serve_run_takes_the_configuration(
    start: Callable[..., Any], cluster: Cluster, config: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "serve.yaml").write_text(yaml.safe_dump(config))
    command = start(BIN / "serve", "run", "--address", cluster.gcs, tmp_path / "serve.yaml")
    cluster.until(cluster.running)
    assert judged(cluster.url)["version"] == 7
    command.stop()


def test_serve_deploy_swaps_in_place_where_only_user_config_differs(
    cluster: Cluster, config: dict[str, Any], contrary: Path
) -> None:
    cluster.deploy(config)
    cluster.until(cluster.running)
    assert (judged(cluster.url)["verdict"], judged(cluster.url)["version"]) == ("a", 7)
    before = cluster.replicas()
    (deployment,) = config["applications"][0]["deployments"]
    deployment["user_config"] = {"checkpoint": str(contrary)}
    cluster.deploy(config)
    cluster.until(lambda: judged(cluster.url)["version"] == 8)
    assert judged(cluster.url)["verdict"] == "b"
    cluster.until(cluster.running)
    assert cluster.replicas() == before
    deployment["user_config"] = {}


def test_a_rolling_update_of_two_replicas_fails_no_request(cluster: Cluster, config: dict[str, Any], load: Any) -> None:
    arguments = config["applications"][0]["args"]["serve"]
    arguments["replicas"] = 2
    cluster.deploy(config)
    cluster.until(lambda: cluster.running() and len(cluster.replicas()) == 2)
    before = cluster.replicas()
    with load(cluster.url) as under:
        under.wait(50)
        arguments["limits"]["responses"] = 7
        cluster.deploy(config)
        cluster.until(lambda: cluster.running() and len(cluster.replicas() - before) == 2)
        under.wait(50, since=time.monotonic())
    assert not under.bad(), under.bad()[:3]
    assert {(answer.body["verdict"], answer.body["version"]) for answer in under.good()} == {("a", 7)}
    assert httpx.get(f"{cluster.url}/version").json()["limits"]["responses"] == 7


def test_replicas_come_with_load_and_go_without(cluster: Cluster, config: dict[str, Any], load: Any) -> None:
    arguments = config["applications"][0]["args"]["serve"]
    arguments |= {"replicas": 1, "max_replicas": 2, "target_requests": 4}
    (deployment,) = config["applications"][0]["deployments"]
    deployment["autoscaling_config"] = {
        **{"min_replicas": 1, "max_replicas": 2, "target_ongoing_requests": 4},
        **{"upscale_delay_s": 2, "downscale_delay_s": 5},
    }
    cluster.deploy(config)
    cluster.until(lambda: cluster.running() and len(cluster.replicas()) == 1)
    with load(cluster.url) as under:
        cluster.until(lambda: len(cluster.replicas()) == 2)
        under.wait(50, since=time.monotonic())
    cluster.until(lambda: len(cluster.replicas()) == 1)
    assert judged(cluster.url)["verdict"] == "a"
    assert not under.bad(), under.bad()[:3]
    assert {answer.body["verdict"] for answer in under.good()} == {"a"}
