"""Claim: an unchanged recipe that was run once starts no job and ends within three seconds.

    make demo && make bench NAME=second_run

Runs `gptmill run recipes/demo.yaml` five times behind the first and tells the median. There is no peer: `ratio` is 1
where the claim held. `same_work` says that no manifest changed and that each run said there was nothing to do.
"""

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
RUNS, LIMIT_SECONDS = 5, 3.0


def main() -> None:
    """Print each run's seconds, then the claim as one line of JSON."""
    command = [sys.executable, "-m", "pipelines", "run", "recipes/demo.yaml"]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    before = stamps()
    seconds, idle = [], True
    for _ in range(RUNS):
        started = time.perf_counter()
        done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
        seconds.append(time.perf_counter() - started)
        idle = idle and "nothing to do" in done.stdout
        print(f"{seconds[-1]:.2f} s")
    median = statistics.median(seconds)
    same_work = idle and stamps() == before
    print(
        json.dumps(
            {
                "claim": "a second run starts no job and ends in 3 s",
                "ours": round(median, 2),
                "peer": None,
                "ratio": 1 if same_work and median <= LIMIT_SECONDS else 0,
                "unit": "s",
                "same_work": same_work,
            }
        )
    )


def stamps() -> dict[str, int]:
    """When each manifest of the demo's workspace was written."""
    return {str(path): path.stat().st_mtime_ns for path in (ROOT / "workspace").glob("*/*/manifest.json")}


if __name__ == "__main__":
    main()
