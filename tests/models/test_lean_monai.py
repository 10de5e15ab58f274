"""In a process of ours MONAI comes without what it can do without; in a user's with all of it."""

from __future__ import annotations

import subprocess
import sys

import pytest

OPTIONAL = ["matplotlib.pyplot", "nibabel", "pandas", "scipy.signal", "torch.utils.tensorboard"]
PROGRAM = """
import sys
sys.argv = [{script!r}]
import {module}
import monai
print(*(name for name in {optional!r} if name in sys.modules))
from importlib import import_module
for name in {optional!r}:
    import_module(name)
from monai.networks.nets import UNet
"""


def imported_with(module: str, *, script: str) -> list[str]:
    """What of OPTIONAL `module` brings into a process that runs `script`."""
    program = PROGRAM.format(script=script, module=module, optional=OPTIONAL)
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    ("module", "its_own"),
    [("unet_batch.inference.replica", []), ("unet_batch.training.worker", ["pandas"])],
)
def test_a_worker_imports_nothing_that_networks_do_without(module: str, its_own: list[str]) -> None:
    assert imported_with(module, script="/ray/_private/workers/default_worker.py") == its_own


def test_in_a_users_program_monai_is_whole() -> None:
    found = imported_with("unet_batch.inference.replica", script="mine.py")
    assert {"matplotlib.pyplot", "nibabel", "scipy.signal"} <= set(found)
