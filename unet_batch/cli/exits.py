"""Exit statuses of every command."""

from __future__ import annotations

from enum import IntEnum

import typer


class Exit(IntEnum):
    """What a program learns without reading the output."""

    DONE = 0
    INCOMPLETE = 1  # it ran, but Volumes were quarantined or missing
    REFUSED = 2  # it could not run: the message says why


def leave(*, is_complete: bool) -> None:
    """End the command with INCOMPLETE unless all was done."""
    if not is_complete:
        raise typer.Exit(Exit.INCOMPLETE)
