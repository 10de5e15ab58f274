"""The tile engine: every case of `unet-batch bench`, in a process of its own, and its goals.

    python tests/benchmarks/bench_engine.py [case ...]

Goals, as ratios of one run: the bare forward pass to the Job, MONAI's loop to the Job in float32,
and under autocast on a device with bf16.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

GOALS = {
    "one-256-2": (0.90, 3.5, 2.4),
    "one-256-14": (0.90, 3.5, 2.4),
    "ten-160-2": (0.90, 3.5, 2.4),
    "ten-160-14": (0.90, 3.5, 2.4),
    "dynunet-256-2": (0.90, 5.0, None),
    "five-hundred-40": (0.75, None, None),
}
MOST_CORE_MS_A_VOLUME = 10.0
"""What a small Volume may take beyond the bare forward pass."""


def main() -> None:
    """Measure, print what missed its goal, and fail if anything did."""
    out = Path(tempfile.mkdtemp(prefix="unet-batch-bench-"))
    command = "from unet_batch.cli.app import main; main()"
    chosen = [part for name in sys.argv[1:] for part in ("--case", name)]
    arguments = [sys.executable, "-c", command, "bench", "--out", str(out), *chosen]
    status = subprocess.run(arguments, check=False).returncode
    if status:
        sys.exit(status)
    cases = json.loads((out / "bench.json").read_text())["cases"]
    missed = [line for case in cases for line in shortfalls(case)]
    print("\n".join(missed) or "every goal is met")
    sys.exit(bool(missed))


def shortfalls(case: dict[str, Any]) -> list[str]:
    """What a case missed, a line each."""
    job_s, wanted = case["end_to_end_s"], GOALS[case["name"]]
    whole = ("bare_s", "monai_fp32_s", "monai_autocast_s")
    lines = [
        f"{case['name']}: {name} / end_to_end_s is {case[name] / job_s:.2f}, the goal {goal}"
        for name, goal in zip(whole, wanted, strict=True)
        if goal and case[name] and case[name] / job_s < goal
    ]
    if case["tiles_predicted"] != case["tiles_planned"]:
        lines.append(f"{case['name']}: {case['tiles_predicted']} of {case['tiles_planned']} tiles")
    core_ms = 1e3 * case["num_cpus"] * (job_s - case["bare_s"]) / case["num_volumes"]
    if case["name"] == "five-hundred-40" and core_ms > MOST_CORE_MS_A_VOLUME:
        lines.append(f"{case['name']}: {core_ms:.1f} ms of a core a Volume beyond bare")
    return lines


if __name__ == "__main__":
    main()
