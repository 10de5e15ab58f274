"""Cause: the few kinds of reason for which Volumes fail, so that they can be counted and graphed.

The reason itself is a sentence for a person and names the Volume; a metric's label may not.
"""

from __future__ import annotations

import re
from typing import Literal, get_args

Cause = Literal[
    "unreadable", "voxels", "channels", "geometry", "memory", "replica", "model", "store", "other"
]
CAUSES: tuple[Cause, ...] = get_args(Cause)

MAX_LENGTH = 2000
"""Characters of a reason that are looked at: a library's message may be a page, and take long."""

_SIGNS: tuple[tuple[Cause, str], ...] = (
    # The first that is found counts: what killed a Replica says more than that it died.
    ("memory", r"out ?of ?memory|memory_budget|MemoryError"),
    ("unreadable", r"reading failed|truncated|corrupt|cannot be read|not readable"),
    ("store", r"(writing|post-processing|publishing) Labels|cannot write|No space left|StoreError"),
    ("model", r"the network's logits|the network returned"),
    ("voxels", r"\bNaN\b|infinite|nonfinite"),
    ("channels", r"\bchannels?\b"),
    ("geometry", r"spacing|affine|orientation|axes"),
    ("replica", r"Replicas? (died|was lost)|ActorDied|worker died"),
    ("model", r"Bundle|percentile"),
)


def cause_of(reason: str) -> Cause:
    """The kind of a quarantined Volume's `reason`; `other` where none is known.

    >>> cause_of("reading failed: truncated file")
    'unreadable'
    """
    for cause, pattern in _SIGNS:
        if re.search(pattern, reason[:MAX_LENGTH], re.IGNORECASE):
            return cause
    return "other"
