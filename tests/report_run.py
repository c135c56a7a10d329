"""A tiny run as its stages leave it: real outputs with real manifests, and made-up numbers."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpt_core.artifact import Artifact, Manifest, list_files, open_artifact, write_atomically, write_manifest
from gpt_core.fingerprint import fingerprint
from gpt_core.recipe import Recipe
from gpt_core.recipe_file import parse_recipe

LABELS = ["Arts", "Biology and health sciences", "Geography", "History", "Mathematics", "People"]
CONFUSION = [
    [41, 1, 2, 3, 0, 15],
    [2, 118, 4, 0, 3, 4],
    [1, 2, 92, 5, 0, 3],
    [2, 1, 6, 46, 0, 12],
    [0, 2, 0, 0, 22, 1],
    [9, 3, 2, 8, 0, 155],
]
SCRIPT = "<script>alert('a')</script> & <img src=http://evil.example/x.png onerror=alert(1)>"


def make_recipe(**sections: Any) -> Recipe:
    return parse_recipe(
        {
            "name": "tiny",
            "corpus": {"inputs": [{"path": "data/novels.jsonl.gz"}, {"path": "data/web.jsonl.gz", "source": "web"}]},
            "clean": {"gopher_quality": {"min_words": 20}},
            "tokenizer": {"vocab_size": 4096},
            "model": {"n_layer": 4, "n_head": 4, "n_embd": 128, "context_length": 256},
            "pretrain": {"tokens": 1_500_000, "batch_sequences": 16, "learning_rate": 2e-3},
            "finetune": {"train": "train.jsonl", "validation": "validation.jsonl", "test": "test.jsonl"},
            "evaluate": {"prompts": ["The whale", "In mathematics,"]},
            **sections,
        },
        origin="a test",
    )


def make_run(folder: Path) -> dict[str, Artifact]:
    """Outputs of all seven stages."""
    made: dict[str, Artifact] = {}
    for number, (stage, reads, content) in enumerate(STAGES):
        made[stage] = _make(folder / stage, stage, {name: made[name] for name in reads}, content, number)
    return made


def _make(root: Path, stage: str, inputs: Mapping[str, Artifact], content: Mapping[str, Any], number: int) -> Artifact:
    raw = [{"name": "novels.jsonl.gz", "sha256": f"{number:02x}" * 32}] if stage == "clean" else []
    identity: dict[str, Any] = {
        "stage": stage,
        "revision": 1,
        "recipe": {},
        "files": {"corpus": raw} if raw else {},
        "inputs": {name: artifact.manifest.fingerprint for name, artifact in inputs.items()},
    }
    for name, value in content.get("files", {}).items():
        write_atomically(root / name, json.dumps(value))
    manifest = Manifest(
        stage=stage,
        fingerprint=fingerprint(identity),
        identity=identity,
        recipe_name="tiny",
        created_at=f"2026-03-01T10:{number:02d}:30+00:00",
        inputs={name: str(artifact.root) for name, artifact in inputs.items()},
        files=list_files(root, [root / name for name in content.get("files", {})]),
        counts=content.get("counts", {}),
        figures=content.get("figures", {}),
        schemas={},
        versions={"python": "3.11.9", "gptmill": "0.1.0", "pyarrow": "21.0.0"},
        command=["python", "-m", f"jobs.{stage}"],
        host="laptop",
        git_commit="0123456789abcdef0123456789abcdef01234567",
        wall_seconds=12.5 + 10 * number,
        cpu_seconds=20.25 + 15 * number,
        peak_memory_bytes=700_000_000 + 50_000_000 * number,
    )
    write_manifest(root, manifest)
    artifact = open_artifact(root)
    assert artifact is not None
    return artifact


def _decay(steps: int, start: float, end: float, *, every: int = 1, wobble: float = 0.0) -> list[list[float]]:
    """A curve from `start` towards `end` with a wobble that looks like noise."""
    return [
        [step, end + (start - end) * math.exp(-5 * step / steps) + wobble * math.sin(12.9898 * step * step)]
        for step in range(every, steps + 1, every)
    ]


def _per_label() -> dict[str, dict[str, float]]:
    scores = {}
    for i, label in enumerate(LABELS):
        hits, support = CONFUSION[i][i], sum(CONFUSION[i])
        guesses = sum(row[i] for row in CONFUSION)
        f1 = 2 * hits / (support + guesses)
        scores[label] = {"precision": hits / guesses, "recall": hits / support, "f1": f1, "support": support}
    return scores


def _run(offset: float) -> dict[str, list[list[float]]]:
    return {
        "train_loss": _decay(684, 2.4, 0.35 + offset, wobble=0.12),
        "lm_loss": _decay(684, 5.5 + 3 * offset, 3.9 + offset, wobble=0.15),
        "gradient_norm": _decay(684, 2.1, 0.8 + offset, wobble=0.1),
        "validation_accuracy": [[228, 0.71 - offset], [456, 0.8 - offset], [684, 0.8432 - offset]],
        "learning_rate": [[step, 1e-3 * (1 - step / 684)] for step in range(1, 685)],
    }


def _standing(accuracy: float, macro_f1: float, *, how: str = "") -> dict[str, Any]:
    figures = {"accuracy": accuracy, "macro_f1": macro_f1, "matthews": accuracy - 0.08, "calibration_error": 0.0312}
    interval = {"low": accuracy - 0.0301, "high": accuracy + 0.0299}
    return {"figures": figures, "spreads": {}, **interval, "seeds": [figures], "how": how}


def over_seeds(standing: dict[str, Any], gains: list[float]) -> dict[str, Any]:
    """The standing as the mean over seeds, each of which has so much more of the headline."""
    figures = standing["figures"]
    seeds = [{**figures, "accuracy": figures["accuracy"] + gain} for gain in gains]
    return {**standing, "seeds": seeds, "spreads": dict.fromkeys(figures, 0.0123)}


def _calibration() -> list[dict[str, float]]:
    counts = [0, 0, 0, 4, 9, 14, 21, 25, 30, 36, 41, 52, 67, 96, 170]
    bins = []
    for number, examples in enumerate(counts):
        confidence = (number + 0.55) / 15
        accuracy = min(1.0, 0.82 * confidence + 0.07 + 0.04 * math.sin(3 * number))
        if examples:
            edges = {"low": number / 15, "high": (number + 1) / 15}
            bins.append({**edges, "examples": examples, "confidence": confidence, "accuracy": accuracy})
    return bins


def _likelihood(loss: float, bits: float, tokens: int) -> dict[str, float]:
    return {"loss": loss, "bits_per_byte": bits, "perplexity": math.exp(loss), "tokens": tokens}


STAGES: list[tuple[str, list[str], dict[str, Any]]] = [
    (
        "clean",
        [],
        {
            "counts": {
                "documents_in": 26_801,
                "documents_kept": 8_652,
                "documents_rejected": 18_149,
                "text_bytes_in": 23_114_474,
                "text_bytes_kept": 15_838_992,
                "rejected.language": 16_197,
                "rejected.contaminated": 1_734,
                "rejected.gopher_quality.min_words": 115,
                "rejected.gopher_quality.min_stop_words": 58,
                "rejected.gopher_repetition.top_4gram_characters": 43,
                "rejected.malformed": 2,
            },
            "files": {
                "stats.json": {
                    "languages": {"en": 10_607, "es": 6_239, "fr": 9_954, "ru": 1},
                    "sources": {
                        "novels": {"in": 404, "kept": 404, "bytes_kept": 5_228_005},
                        "web": {"in": 26_397, "kept": 8_248, "bytes_kept": 10_610_987},
                    },
                    "length_histogram": {
                        "edges_characters": [2**octave for octave in range(3, 19)],
                        "kept": [0, 0, 0, 32, 910, 3822, 3159, 161, 21, 81, 185, 201, 71, 2, 7],
                        "rejected": [1, 3, 115, 1162, 4575, 7841, 4163, 286, 1, 0, 0, 0, 0, 0, 0],
                    },
                    "rejected": {"language": 16_197, "malformed": 1, "gopher_quality.min_stop_words": 40},
                    "measurements": {
                        "gopher_quality.words": {
                            "label": "words",
                            "reasons": ["gopher_quality.max_words", "gopher_quality.min_words"],
                            "min": 50,
                            "max": 100_000,
                            "edges": [0.0, *(2.0**n for n in range(1, 21))],
                            "kept": [0] * 6 + [900, 5_000, 2_000, 700, 52] + [0] * 9,
                            "rejected": [2, 5, 40, 900, 9_000, 200, 7, 1] + [0] * 12,
                        },
                        "gopher_quality.stop_words": {
                            "label": "stop words",
                            "reasons": ["gopher_quality.min_stop_words"],
                            "min": 2,
                            "max": None,
                            "edges": list(range(22)),
                            "kept": [0, 0, 100, 400, 900, 3_000, 4_252] + [0] * 14,
                            "rejected": [16, 24, 0, 3] + [0] * 17,
                        },
                    },
                    "pii": {"email": {"found": 31, "documents": 12}},
                    "contamination": [{"text": "topics.test.jsonl web-9", "documents": 3}],
                    "edited": {"normalized": {"documents": 7, "bytes": 1_234}},
                    "reject_samples": {
                        "language": [{"id": "web-1", "detail": "fr (0.98) is not among en", "text": "La baleine."}],
                        "malformed": [{"id": "web-2", "detail": "is no JSON object", "text": SCRIPT}],
                    },
                }
            },
        },
    ),
    (
        "dedup",
        ["clean"],
        {
            "counts": {
                "documents_in": 8_652,
                "documents_kept": 8_580,
                "duplicates_exact": 5,
                "duplicates_fuzzy": 67,
                "text_bytes_kept": 13_197_065,
            },
            "files": {
                "stats.json": {
                    "sources": {
                        "novels": {"in": 404, "kept": 404, "bytes_kept": 5_228_005},
                        "web": {"in": 8_248, "kept": 8_176, "bytes_kept": 7_969_060},
                    },
                    "clusters": {
                        "sizes": {"2-3": 60, "4-7": 3},
                        "largest": [
                            {
                                "id": "web-3",
                                "source": "web",
                                "size": 7,
                                "text": SCRIPT,
                                "members": ["web-7", "web-8", "web-9", "web-10", "web-11"],
                            }
                        ],
                    },
                    "jaccard_histogram": {
                        "edges": [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0],
                        "verified": [0, 0, 0, 0, 4, 9, 12, 8, 20, 19],
                        "refused": [30, 4, 2, 1, 0, 0, 0, 0, 0, 0],
                    },
                    "lines": {"common": 3, "dropped": 40, "documents": 38, "bytes": 2_048},
                    "pairs": [{"id": "web-7", "duplicate_of": "web-3", "kind": "fuzzy", "jaccard": 0.6120031587}],
                }
            },
        },
    ),
    (
        "tokenizer",
        ["dedup"],
        {
            "counts": {"vocab_size": 4_096, "sample_documents": 8_580, "sample_bytes": 13_197_065},
            "figures": {"bytes_per_token": 3.71},
            "files": {
                "report.json": {
                    "vocab_size": 4_096,
                    "padded_vocab_size": 4_224,
                    "special_tokens": {"<|user|>": 4_094, "<|endoftext|>": 4_095},
                    "measured": {"documents": 5_201, "bytes": 7_999_104, "tokens": 2_156_092},
                    "sources": {
                        "novels": {"documents": 245, "bytes": 3_168_512, "tokens": 880_142},
                        "web": {"documents": 4_956, "bytes": 4_830_592, "tokens": 1_275_950},
                    },
                    "languages": {
                        "en": {"documents": 5_200, "bytes": 7_998_000, "tokens": 2_155_000},
                        "": {"documents": 1, "bytes": 1_104, "tokens": 1_092},
                    },
                    "unused": {
                        "tokens": 104,
                        "single_bytes": 101,
                        "first": [
                            {"id": 301, "token": " q", "bytes": 2},
                            {"id": 777, "token": "\\xe2\\x80", "bytes": 2},
                            {"id": 3_001, "token": "<b>", "bytes": 3},
                        ],
                    },
                    "longest": [
                        {"id": 3_995, "token": " representatives", "bytes": 16},
                        {"id": 2_020, "token": "\n\n\t\u2028", "bytes": 6},
                    ],
                }
            },
        },
    ),
    (
        "shards",
        ["dedup", "tokenizer"],
        {
            "counts": {
                "train_documents": 8_410,
                "train_tokens": 3_546_869,
                "validation_documents": 170,
                "validation_tokens": 70_140,
                "validation_bytes": 259_000,
            },
            "figures": {"bytes_per_token": 3.6486},
            "files": {
                "encoder.json": {
                    "blocks": {"fast": 3, "reference": 1},
                    "compared_documents": 41,
                    "compared_bytes": 32_400,
                    "differences": ["the encoders differ on text 7 of the block: 'odd'"],
                },
                "stats.json": {
                    "sources": {
                        "novels": {"train_tokens": 1_486_472, "validation_tokens": 46_473, "documents": 404},
                        "web": {"train_tokens": 2_060_397, "validation_tokens": 23_667, "documents": 8_176},
                    }
                },
            },
        },
    ),
    (
        "pretrain",
        ["shards", "tokenizer"],
        {
            "counts": {"parameters": 1_366_784, "steps": 366, "tokens": 1_499_136},
            "figures": {
                "train_loss": 4.21,
                "validation_loss": 4.3121,
                "validation_bits_per_byte": 1.7051,
                "tokens_per_second": 15_184.57,
            },
            "files": {
                "curves.json": {
                    "train_loss": _decay(366, 8.4, 4.2, wobble=0.09),
                    "validation_loss": _decay(366, 8.1, 4.3, every=50),
                    "learning_rate": [
                        [step, 2e-3 * min(step / 13, 0.55 + 0.45 * math.cos(math.pi * step / 366))]
                        for step in range(1, 367)
                    ],
                    "gradient_norm": _decay(366, 3.4, 0.62, wobble=0.11),
                    "tokens_per_second": [[step, 15_100 + 600 * math.sin(step * step)] for step in range(1, 367)],
                }
            },
        },
    ),
    (
        "finetune",
        ["pretrain"],
        {
            "counts": {
                "parameters": 1_367_552,
                "steps": 684,
                "train_examples": 7_272,
                "validation_examples": 864,
                "labels": 6,
            },
            "figures": {"train_loss": 0.41, "validation_accuracy": 0.8432, "scratch_validation_accuracy": 0.7432},
            "files": {"curves.json": {"pretrained": _run(0.0), "scratch": _run(0.1)}},
        },
    ),
    (
        "evaluate",
        ["pretrain", "finetune", "shards"],
        {
            "counts": {"test_examples": 565, "validation_tokens": 69_888},
            "figures": {
                "validation_loss": 4.3047,
                "validation_bits_per_byte": 1.7022,
                "validation_perplexity": 74.0471,
                "validation_bits_per_byte.novels": 1.6214,
                "validation_bits_per_byte.web": 1.8601,
                "test_accuracy": 0.8389,
                "test_accuracy_low": 0.8088,
                "test_accuracy_high": 0.8688,
                "test_macro_f1": 0.8225,
                "scratch_test_accuracy": 0.7363,
                "scratch_test_macro_f1": 0.7018,
                "bag_of_words_accuracy": 0.7752,
                "majority_accuracy": 0.3133,
                "lift": 0.1026,
                "lift_low": 0.0637,
                "lift_high": 0.1416,
            },
            "files": {
                "evaluation.json": {
                    "language_model": {
                        "total": _likelihood(4.3047, 1.7022, 69_888),
                        "sources": {
                            "novels": _likelihood(4.1912, 1.6214, 46_472),
                            "web": _likelihood(4.5299, 1.8601, 23_416),
                        },
                    },
                    "task": {
                        "task": "classification",
                        "target": "class",
                        "headline": "accuracy",
                        "less_is_better": False,
                        "labels": LABELS,
                        "models": {
                            "pretrained": _standing(0.8389, 0.8225),
                            "scratch": _standing(0.7363, 0.7018),
                            "bag_of_words": _standing(0.7752, 0.7401, how="naive Bayes over counts of words"),
                            "majority": _standing(0.3133, 0.0795, how="the most frequent label"),
                        },
                        "lift": {
                            "value": 0.1026,
                            "low": 0.0637,
                            "high": 0.1416,
                            "how": "1,000 resamples of the test set, paired",
                        },
                        "confusion": CONFUSION,
                        "per_label": _per_label(),
                        "calibration": _calibration(),
                        "train_examples": 7_272,
                        "test_examples": 565,
                        "seeds": [0],
                        "kept_seed": 0,
                    },
                },
                "samples.json": [
                    {
                        "prompt": "The whale",
                        "text": " is a species of the sea, and the ship was then seen by the crew.\n\n"
                        '"I have no doubt," said the captain, "that we shall see her again before night."',
                    },
                    {"prompt": "In mathematics,", "text": " a number is the set of all <b>numbers</b> that are even."},
                ],
            },
        },
    ),
]
