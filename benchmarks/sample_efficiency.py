"""Claim: half the wall time to the validation loss that a tuned GPT-2 with AdamW reaches at the end of its budget.

    make bench NAME=sample_efficiency
    python benchmarks/sample_efficiency.py --layers 12 --width 768 --context 1024 --batch 32 --steps 4000   # on a GPU

The peer is transformers' GPT-2, compiled, bf16, trained as nanoGPT trains: AdamW, weight decay 0.1, clipping, warm-up
and cosine to a tenth. Ours is the qwen3 block of equal depth and width with Muon through DeepSpeed ZeRO-1, warm-up and
linear decay to 0. Both read the same shards in the same order, the demo's texts under a vocabulary of their own, and
validate on the same windows. The peer's learning rate is the best of --rates. Ours may take --fraction of the peer's
wall time, by steps timed before; Muon's learning rate is swept over as many values. The table shows every run; `ratio`
is the peer's seconds by ours to that loss, 0 where ours never came there. Validations and compiling are in neither's.
`same_work`: both had the same batch, context, vocabulary and validation windows.
"""

import argparse
import gzip
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from shard_stage import run_shards, write_documents, write_output

from gpt_core.model.config import DecoderConfig
from gpt_core.model.decoder import Decoder
from gpt_core.model.hf import save_language_model
from gpt_core.recipe import Model
from gpt_core.recipe import Tokenizer as TokenizerSettings
from gpt_core.tokenizer.train import train_tokenizer

ROOT = Path(__file__).parents[1]
DEMO = ("novels", "speeches", "encyclopedia")
TIMED_STEPS = 12
Point = dict[str, float]


def main() -> None:
    """Print every run, then the claim as one line of JSON."""
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        shards = make_shards(work, arguments.vocabulary)
        models = {kind: make_model(work / kind, kind, arguments) for kind in ("gpt2", "qwen3")}
        common = [str(shards), arguments]
        peer_runs = {
            rate: learn("transformers", models["gpt2"], *common, steps=arguments.steps, rate=rate)
            for rate in arguments.rates
        }
        best_rate = min(peer_runs, key=lambda rate: peer_runs[rate][-1]["validation_loss"])
        peer = peer_runs[best_rate][-1]
        timed = learn("ours", models["qwen3"], *common, steps=TIMED_STEPS, rate=arguments.rate, muon=0.01)[-1]
        steps = int(arguments.fraction * peer["seconds"] / (timed["seconds"] / TIMED_STEPS))
        our_runs = {
            muon: learn("ours", models["qwen3"], *common, steps=steps, rate=arguments.rate, muon=muon)
            for muon in arguments.muon_rates
        }
    best_muon = min(our_runs, key=lambda muon: our_runs[muon][-1]["validation_loss"])
    ours = next((p for p in our_runs[best_muon] if p["validation_loss"] <= peer["validation_loss"]), None)
    ratio = peer["seconds"] / ours["seconds"] if ours else 0.0
    claim = {
        "claim": f"seconds of training to a validation loss of {peer['validation_loss']:.4f}, which GPT-2 with AdamW "
        f"(learning rate {best_rate:g}) reaches after {arguments.steps} steps; ours: qwen3 with Muon ({best_muon:g})",
        "ours": round(ours["seconds"], 1) if ours else None,
        "peer": round(peer["seconds"], 1),
        "ratio": round(ratio, 2),
        "unit": "seconds",
        "same_work": True,
    }
    print(json.dumps(claim))


def parse_arguments() -> argparse.Namespace:
    """Sizes and rates; the defaults are for two CPU cores and half an hour."""
    parser = argparse.ArgumentParser(description="Wall time to a validation loss.")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--batch", type=int, default=16, help="sequences a step")
    parser.add_argument("--steps", type=int, default=300, help="of the peer")
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-3, 2e-3, 4e-3], help="the peer's")
    parser.add_argument("--muon-rates", type=float, nargs="+", default=[0.01, 0.02, 0.04], help="ours, of Muon")
    parser.add_argument("--rate", type=float, default=4e-3, help="ours, of AdamW beside Muon")
    parser.add_argument("--fraction", type=float, default=0.5, help="of the peer's wall time that ours may take")
    parser.add_argument("--validate-every", type=int, default=20)
    parser.add_argument("--validation-tokens", type=int, default=32_768)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    return parser.parse_args()


def make_shards(work: Path, vocabulary: int) -> Path:
    """Token shards of the demo's texts."""
    rows = []
    for part in DEMO:
        with gzip.open(ROOT / f"data/demo/{part}.jsonl.gz", "rt", encoding="utf-8") as lines:
            rows += [(f"{part}-{n}", row["text"], part) for n, row in enumerate(map(json.loads, lines))]
    tokenizer = work / "tokenizer"
    train_tokenizer([[text for _, text, _ in rows]], TokenizerSettings(vocab_size=vocabulary)).save(tokenizer)
    write_output(tokenizer, "tokenizer", {})
    write_documents(work / "dedup", rows)
    shards, _ = run_shards(work / "shards", work / "dedup", tokenizer, validation_fraction=0.02)
    return shards.root


def make_model(folder: Path, kind: str, arguments: argparse.Namespace) -> Path:
    """Random weights of the architecture `kind`, of equal depth and width."""
    settings = Model(
        architecture=kind,
        n_layer=arguments.layers,
        n_head=max(1, arguments.width // 64),
        n_embd=arguments.width,
        context_length=arguments.context,
    )
    config = replace(DecoderConfig.from_recipe(settings, arguments.vocabulary), dropout=0.0)
    decoder = Decoder(config)
    decoder.init_weights(0)
    save_language_model(decoder, folder)
    return folder


def learn(
    who: str,
    model: Path,
    shards: str,
    arguments: argparse.Namespace,
    *,
    steps: int,
    rate: float,
    muon: float | None = None,
) -> list[Point]:
    """The learning curve of one run; ends the benchmark with its last words where it failed."""
    shape = ["--schedule", "linear", "--final", "0"] if who == "ours" else ["--schedule", "cosine", "--final", "0.1"]
    command = [
        *[sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1"],
        *[str(Path(__file__).with_name("learning_run.py")), who, "--model", str(model), "--shards", shards],
        *["--batch", str(arguments.batch), "--context", str(arguments.context), "--steps", str(steps)],
        *["--threads", str(arguments.threads), "--validate-every", str(arguments.validate_every)],
        *["--validation-tokens", str(arguments.validation_tokens), "--weight-decay", "0.1"],
        *["--learning-rate", str(rate), *shape, "--compile"],
        *(["--muon-learning-rate", str(muon)] if muon is not None else []),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(arguments.threads)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    points: list[Point] = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not points:
        sys.exit(f"error: {who} ended with {done.returncode}\n{done.stderr[-4000:]}")
    end = points[-1]
    rates = f"{rate:g}" + (f", Muon {muon:g}" if muon is not None else "")
    print(
        f"{who:<13} {rates:<20} {steps:5} steps {end['seconds']:7.1f} s, loss {end['validation_loss']:.4f}", flush=True
    )
    return points


if __name__ == "__main__":
    main()
