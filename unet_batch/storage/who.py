"""Who did something, when, and why: what a record that people rely on begins with."""

from __future__ import annotations

import getpass
import os
from datetime import UTC, datetime
from typing import NamedTuple

VARIABLE = "UNET_BATCH_USER"
"""In the environment: who it is, where the account says nothing (in a container)."""


class Note(NamedTuple):
    """`at` is ISO 8601 in UTC, to the second."""

    by: str
    at: str
    why: str

    @classmethod
    def now(cls, why: str) -> Note:
        """By the person of the environment or the account, at this moment."""
        at = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(os.environ.get(VARIABLE) or _account(), at, why)


def _account() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number without a name
        return f"uid {os.getuid()}"
