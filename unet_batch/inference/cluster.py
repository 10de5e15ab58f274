"""Cluster: join the Ray that is there, or start one embedded in this process."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import psutil
import ray

from unet_batch.errors import ReplicaError

OBJECT_STORE_SHARE = 0.25  # of the machine's memory; Blocks in flight are bounded far below it
MAX_OBJECT_STORE_BYTES = 8 * 2**30

EMBEDDED_SETTINGS = {
    "worker_niceness": 0,  # by default whatever else runs on the machine goes before a Replica
    "idle_worker_killing_time_threshold_ms": 60_000,  # what reads and writes is started once
    "num_workers_soft_limit": 16,
}

_is_joined: ContextVar[bool] = ContextVar("is_joined", default=False)


@contextmanager
def ray_running(address: str | None = None) -> Iterator[None]:
    """Ray for the time of the block: the one already joined, one at `address`, or our own.

    `address` defaults to the environment's RAY_ADDRESS. An embedded Ray is reachable from
    this machine only, and ends, with its files, at the end of the block.
    """
    if ray.is_initialized():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS")
    with _joined(address) if address else _embedded():
        yield


def is_joined() -> bool:
    """Whether this process joined a cluster through `ray_running`, that others may use too."""
    return _is_joined.get()


@contextmanager
def variables(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables of the environment for the time of the block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _joined(address: str) -> Iterator[None]:
    try:
        ray.init(address=address, log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ReplicaError(
            f"no Ray cluster answers at {address!r}: {error}. Check the address and, where the"
            " cluster asks for one, the token in RAY_AUTH_TOKEN"
        ) from error
    token = _is_joined.set(True)
    try:
        yield
    finally:
        _is_joined.reset(token)
        ray.shutdown()


@contextmanager
def _embedded() -> Iterator[None]:
    # Ray's sockets live below this folder, and a socket's path has at most 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="unet-batch-", dir="/tmp"))
    memory = psutil.virtual_memory().total
    try:
        ray.init(
            address="local",
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,  # the token, and where this Ray is, concern nobody else
            object_store_memory=int(min(memory * OBJECT_STORE_SHARE, MAX_OBJECT_STORE_BYTES)),
            _temp_dir=str(folder),
            _system_config=EMBEDDED_SETTINGS,
        )
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
