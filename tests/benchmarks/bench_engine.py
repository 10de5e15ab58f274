"""The tile engine: every case of `unet-batch bench`, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

if __name__ == "__main__":
    command = "from unet_batch.cli.app import main; main()"
    sys.exit(subprocess.run([sys.executable, "-c", command, "bench"], check=False).returncode)
