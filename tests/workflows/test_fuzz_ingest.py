"""Six hundred damaged and hostile files through the whole of ingest: done, or named, nothing else.

It runs in a process of its own, with bounded memory and time, because what is tested for is a
crash, a hang or a runaway allocation.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("fuzz_ingest.py")
MIN_FILES = 500
MAX_GROWTH_BYTES = 2**30


def test_damaged_and_hostile_files_are_read_or_named(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.nii").write_bytes(b"not yours")
    command = [sys.executable, str(SCRIPT), str(tmp_path / "in"), str(tmp_path / "archive")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout)
    assert told["num_files"] >= MIN_FILES
    assert told["num_scans"] == told["num_done"] + len(told["reasons"])
    assert len(told["reasons"]) > MIN_FILES / 3
    assert told["num_done"] > 20, "some mutants are harmless: the others are refused for a reason"
    for name, reason in told["reasons"].items():
        assert name in reason, f"{name} is not named: {reason}"
        assert len(reason) > len(name) + 20, reason
    assert told["growth_bytes"] < MAX_GROWTH_BYTES
    assert {path.name for path in tmp_path.iterdir()} == {"in", "archive", "outside"}
    assert [path.name for path in outside.iterdir()] == ["secret.nii"]
    assert told["changed_inputs"] == []
    assert any("leads out" in note for note in told["notes"])
