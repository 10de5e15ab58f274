"""What the last Job that made some Labels was predicted to take, and took, for the report."""

from __future__ import annotations

from typing import Any

from unet_batch.planning.prediction import Account
from unet_batch.storage.archive import Archive
from unet_batch.storage.job_folder import list_jobs
from unet_batch.storage.stores import open_store
from unet_batch.workflows.prediction import ACCOUNT


def account_facts(archive: Archive, labels: str) -> list[tuple[str, str]]:
    """Lines of a report: prediction and fact of the last segment Job of these Labels, if any."""
    found = [
        kept
        for job in list_jobs(open_store(archive.url))
        if job.rpartition("-")[0] == f"segment-{labels[:64]}"
        and isinstance(kept := archive.ledger(job).decision(ACCOUNT), dict)
    ]
    if not found:
        return []
    last: dict[str, Any] = max(found, key=lambda kept: str(kept["finished_at"]))
    actual = _in_words(Account.of_json(last["actual"]))
    missed = [
        f"{name.replace('_', ' ')} {share:+.0%}"
        for name, share in last["deviations"].items()
        if name in ("seconds", "memory_bytes") and share is not None
    ]
    off = f" (the prediction was off by: {', '.join(missed)})" if missed else ""
    return [
        ("Predicted", _in_words(Account.of_json(last["predicted"]))),
        ("Taken", f"{actual}{off}"),
    ]


def _in_words(account: Account) -> str:
    parts = [f"{account.tiles} tiles"]
    if account.seconds is not None:
        parts.append(f"{account.seconds:.0f} s")
    if account.memory_bytes is not None:
        parts.append(f"{account.memory_bytes / 2**20:.0f} MiB a Replica")
    parts.append(f"{account.bytes_read / 2**20:.0f} MiB read")
    parts.append(f"{account.bytes_written / 2**20:.0f} MiB written")
    if account.cost is not None:
        parts.append(f"cost {account.cost:.2f}")
    return ", ".join(parts)
