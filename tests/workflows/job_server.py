"""A Ray cluster with a job server on loopback that asks for a token, in a process of its own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TOKEN = "0123456789abcdef0123456789abcdef"

# Beside the other tests' Ray, whose agent has the port that ray.init always takes (ray 2.60).
SCRIPT = """
import functools, sys, json, ray
from ray._private.parameter import RayParams
RayParams.__init__ = functools.partialmethod(RayParams.__init__, dashboard_agent_listen_port=0)
ray.init(address="local", num_cpus=4, object_store_memory=120 * 2**20, include_dashboard=True,
         dashboard_host="127.0.0.1", dashboard_port=int(sys.argv[1]), _temp_dir=sys.argv[2],
         log_to_driver=False)
print(json.dumps("ready"), flush=True)
sys.stdin.read()
"""


@contextmanager
def job_server() -> Iterator[str]:
    """The address of a job server; its Ray ends, with its files, at the end of the block."""
    with (
        tempfile.TemporaryDirectory(prefix="ubj", dir="/tmp", ignore_cleanup_errors=True) as folder,
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(port := _free_port()), folder],
            env=_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as process,
    ):
        try:
            assert process.stdout is not None
            assert json.loads(process.stdout.readline()) == "ready"
            yield f"http://127.0.0.1:{port}"
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(timeout=60)


def _environment() -> dict[str, str]:
    programs = str(Path(sys.executable).parent)
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    return {
        **kept,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
        "PATH": f"{programs}:{os.environ['PATH']}",
    }


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
