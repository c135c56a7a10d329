"""Claim: of a training's time between validations, less than 1 % goes into recording and less than 1 % into waiting.

    make demo && make bench NAME=watched_steps
    python benchmarks/watched_steps.py OUTPUT_OF_PRETRAIN

Read off a real run's steps.jsonl: from one line of a step to the next passes that step's own time, the tokens of a step
over its `tokens_per_second`, and what lies between steps: figures to the file, to MLflow's queue and to progress.json.
Pairs with a validation or a checkpoint between them, and the first step of a process, are left out. `data_wait` is the
share of a step for which the slowest rank stood still before its batch came. There is no peer: `ratio` is 1 where the
claim held. `same_work`: the lines are those of all steps.
"""

import argparse
import itertools
import json
from pathlib import Path

from gpt_core.artifact import open_artifact
from gpt_core.recipe_file import load_recipe
from gpt_core.training.curves import STEPS, read_steps

ROOT = Path(__file__).parents[1]
LIMIT = 0.01


def main() -> None:
    """Print both shares, then the claim as one line of JSON."""
    parser = argparse.ArgumentParser(description="What watching a training costs.")
    parser.add_argument("output", type=Path, nargs="?", default=ROOT / "workspace" / "runs" / "demo" / "pretrain")
    artifact = open_artifact(parser.parse_args().output.resolve())
    assert artifact is not None, "a whole output of pretrain"
    recipe = load_recipe(artifact.root / "recipe.json")
    entries = [entry for entry in read_steps(artifact.file(STEPS)) if "tokens_per_second" in entry.figures]
    every = {recipe.pretrain.validate_every_steps, recipe.cluster.train.checkpoint_every_steps}
    passed = own = 0.0
    for before, after in itertools.pairwise(entries):
        if before.step > 1 and not any(before.step % steps == 0 for steps in every):
            passed += (after.unix_ms - before.unix_ms) / 1000
            own += recipe.step_tokens / after.figures["tokens_per_second"]
    waits = [entry.figures["data_wait"] for entry in entries if "data_wait" in entry.figures]
    recording, waiting = 1 - own / passed, sum(waits) / len(waits)
    print(f"{passed:.1f} s between validations: {recording:.2%} beside the steps, {waiting:.3%} waiting for batches")
    print(
        json.dumps(
            {
                "claim": "recording and waiting for batches each take less than 1 % of the training",
                "ours": round(max(recording, waiting), 5),
                "peer": None,
                "ratio": 1 if max(recording, waiting) < LIMIT else 0,
                "unit": "share of the time",
                "same_work": [entry.step for entry in entries] == list(range(1, artifact.manifest.counts["steps"] + 1)),
            }
        )
    )


if __name__ == "__main__":
    main()
