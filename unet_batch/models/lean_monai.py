"""MONAI, imported into a process of ours without what it imports only in case.

`import monai` imports all of MONAI, and with each of its modules what that could make use of:
matplotlib, pandas, nibabel, scipy.signal. That is 1.4 of the 2.4 s of a core that it takes, in
every Replica and every worker of a training. MONAI does without those (`optional_import`). In a
process that is ours alone, a worker of Ray or the command `unet-batch`, they are hidden while
MONAI is imported, and can be imported afterwards. In a program of the user's nothing is hidden.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

_OURS = {"default_worker.py", "unet-batch"}
"""Scripts of processes that are ours: Ray's worker, and our command."""

_OPTIONAL = (
    *("matplotlib", "mpl_toolkits", "nibabel", "pandas", "PIL", "pydicom", "scipy.signal"),
    *("scipy.stats", "skimage", "tensorboard"),
)
"""What MONAI reads and writes files with, plots, and filters signals with: nothing of a network."""


def import_monai() -> None:
    """Import MONAI, in a process of ours as if _OPTIONAL were not installed."""
    if Path(sys.argv[0]).name not in _OURS or "monai" in sys.modules:
        return
    hidden = [name for name in _OPTIONAL if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: cannot be imported
    try:
        import_module("monai")
    finally:
        for name in hidden:
            del sys.modules[name]


import_monai()
