"""What a process that predicts or trains wants of its threads, in one that is just begun."""

from __future__ import annotations

import subprocess
import sys

ASK = """
import torch
torch.get_num_threads()  # torch has made up its mind
from unet_batch.models.process import tune_process
tune_process({number})
import numba
print(torch.get_num_threads(), numba.get_num_threads())
"""


def test_numba_does_not_give_torch_all_cores() -> None:
    asked = ASK.format(number=3)
    environment = {"NUMBA_NUM_THREADS": "5"}
    command = [sys.executable, "-c", asked]
    told = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert told.stdout.split() == ["3", "3"]
