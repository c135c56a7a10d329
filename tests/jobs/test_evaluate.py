"""The evaluate job on a tiny tokenizer, random models and shards written here."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch
import torch.nn.functional as F
from stage_output import write_output
from tiny_decoder import make_decoder

from gpt_core.artifact import Artifact, open_artifact
from gpt_core.data.index import ShardEntry, ShardIndex, write_index
from gpt_core.data.shards import ShardMetadata, write_shard
from gpt_core.errors import InputError, UserError
from gpt_core.model.decoder import Decoder
from gpt_core.model.heads import TaskModel
from gpt_core.model.hf import load_task_model, save_language_model, save_task_model
from gpt_core.recipe import Finetune, Pretrain
from gpt_core.recipe_file import parse_recipe
from gpt_core.tasks.spec import TaskSpec
from gpt_core.tasks.tokenizer import write_task_tokenizer
from gpt_core.tokenizer.tokenizer import (
    Tokenizer,
    build_backend,
    close_vocabulary,
    copy_tokenizer,
)
from jobs import evaluate
from jobs.job import Job, run_job

LABELS = ["air", "land", "sea"]
TRAIN = [("a kite", "air"), ("a hill", "land"), ("a far hill", "land"), ("a whale", "sea")]
TEST = [
    ("the whale swims far out by the ship and the whale", "sea"),
    ("a hill", "land"),
    ("a kite and a bird", "air"),
    ("a whale, a ship", "sea"),
    ("sails", "sea"),
]
MORE_FIGURES = ("macro_f1", "matthews", "calibration_error")
T = 16
FINETUNE = Finetune(train="train.jsonl", test="test.jsonl")
DOCUMENTS = ["the whale and the ship. ", "a hill and a far hill, ", "the bird and the kite in the air by the sea"] * 8


@dataclass(frozen=True)
class Stages:
    """Outputs of the stages that evaluate reads."""

    folder: Path
    tokenizer: Tokenizer
    inputs: dict[str, Artifact]

    def job(self, output: Path, **evaluate_fields: object) -> Job:
        output.mkdir(exist_ok=True)
        tree = {
            "name": "tiny",
            "corpus": {"inputs": [{"path": "a.jsonl"}]},
            "model": {"n_layer": 2, "n_head": 2, "n_embd": 32, "context_length": T},
            "finetune": {split: str(self.folder / f"{split}.jsonl") for split in ("train", "validation", "test")},
            "evaluate": {"prompts": ["the whale", "a"], "sample_tokens": 6} | evaluate_fields,
        }
        return Job(recipe=parse_recipe(tree, origin="test"), inputs=self.inputs, output=output, rank=0)

    def validation_tokens(self) -> list[int]:
        return [i for text in DOCUMENTS for i in (*self.tokenizer.encode(text), self.tokenizer.end_of_text_id)]


def write_rows(path: Path, rows: list[tuple[str, str]]) -> None:
    path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows))


def make_shards(root: Path, tokenizer: Tokenizer) -> Artifact:
    lists = [[*tokenizer.encode(text), tokenizer.end_of_text_id] for text in DOCUMENTS]
    metadata = ShardMetadata(tokenizer.digest, tokenizer.vocab_size, tokenizer.end_of_text_id, seed=0)
    offsets = np.cumsum([0, *map(len, lists)])
    tokens = np.concatenate(lists).astype(metadata.dtype)
    names = [f"d{i}" for i in range(len(lists))]
    entry = ShardEntry("validation/tales/shard-00000.arrow", "tales", len(lists), len(tokens))
    write_shard(root / entry.path, names, tokens, offsets, metadata)
    write_index(root, ShardIndex(metadata, train=(), validation=(entry,)))
    text_bytes = sum(len(text.encode()) for text in DOCUMENTS)
    return write_output(root, "shards", {"validation_tokens": len(tokens), "validation_bytes": text_bytes})


def random_decoder(tokenizer: Tokenizer, *, seed: int) -> Decoder:
    return make_decoder("gpt2", seed=seed, context_length=T, vocab_size=tokenizer.vocab_size)


@pytest.fixture
def stages(tmp_path: Path) -> Stages:
    backend = build_backend()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=280, initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator(DOCUMENTS, trainer)
    tokenizer = close_vocabulary(backend, "<|endoftext|>")
    saved, pretrain, finetune = tmp_path / "tokenizer", tmp_path / "pretrain", tmp_path / "finetune"
    tokenizer.save(saved)
    save_language_model(random_decoder(tokenizer, seed=1), pretrain / "model")
    copy_tokenizer(saved, pretrain / "model")
    spec = TaskSpec.of_recipe(FINETUNE, tuple(LABELS), max_tokens=T, vocab_size=tokenizer.vocab_size)
    for seed, name in enumerate(("model", "scratch")):
        decoder = random_decoder(tokenizer, seed=2 + seed)
        model = TaskModel(decoder, n_outputs=3, target="class", dropout=0.1, seed=seed)
        save_task_model(model, finetune / name, spec)
        write_task_tokenizer(saved, finetune / name, spec)
    write_rows(tmp_path / "train.jsonl", TRAIN)
    write_rows(tmp_path / "validation.jsonl", TRAIN)
    write_rows(tmp_path / "test.jsonl", TEST)
    inputs = {
        "pretrain": write_output(pretrain, "pretrain"),
        "finetune": write_output(finetune, "finetune"),
        "shards": make_shards(tmp_path / "shards", tokenizer),
    }
    return Stages(tmp_path, tokenizer, inputs)


def evaluation_of(job: Job) -> dict[str, dict]:
    evaluate.make(job)
    return json.loads((job.output / "evaluation.json").read_text())


def test_the_job_ends_with_a_manifest_that_has_all_figures(stages: Stages, tmp_path: Path) -> None:
    job = stages.job(tmp_path / "out")
    (job.output / "recipe.json").write_text(job.recipe.model_dump_json())
    (job.output / "identity.json").write_text('{"x": 1}')
    arguments = ["--recipe", str(job.output / "recipe.json"), "--output", str(job.output), "--inputs"]
    with pytest.raises(SystemExit, match="0"):
        run_job("evaluate", evaluate.make, arguments + [f"{n}={a.root}" for n, a in stages.inputs.items()])
    made = open_artifact(job.output)
    assert made is not None
    assert {entry.path for entry in made.manifest.files} == {"evaluation.json", "samples.json"}
    headlines = [f"{name}_accuracy" for name in ("test", "scratch_test", "bag_of_words", "majority")]
    more = [f"{name}_{figure}" for name in ("test", "scratch_test") for figure in MORE_FIGURES]
    language = ("loss", "perplexity", "bits_per_byte", "bits_per_byte.tales")
    assert set(made.manifest.figures) == {
        *(f"validation_{name}" for name in language),
        *(f"{name}{end}" for name in (*headlines, "lift") for end in ("", "_low", "_high")),
        *more,
    }
    assert made.manifest.counts["test_examples"] == 5
    assert made.manifest.counts["validation_tokens"] > 0


def test_the_language_model_is_scored_in_all_and_by_source(stages: Stages, tmp_path: Path) -> None:
    told = evaluation_of(stages.job(tmp_path / "out"))["language_model"]
    assert told["sources"] == {"tales": told["total"]}
    ids = torch.tensor(stages.validation_tokens())
    count = (len(ids) - 1) // T
    decoder = random_decoder(stages.tokenizer, seed=1)
    inputs, targets = ids[: count * T].view(count, T), ids[1 : count * T + 1].view(count, T)
    wanted = F.cross_entropy(decoder.logits(decoder(inputs)).flatten(0, 1), targets.flatten())
    assert told["total"]["tokens"] == count * T
    assert told["total"]["loss"] == pytest.approx(wanted.item(), rel=1e-5)


def test_a_test_text_is_classified_as_if_it_stood_alone(stages: Stages, tmp_path: Path) -> None:
    told = evaluation_of(stages.job(tmp_path / "out"))["task"]
    model, _ = load_task_model(stages.folder / "finetune" / "model")
    model.eval()
    confusion = np.zeros((3, 3), dtype=int)
    opening, _, extract, _ = range(stages.tokenizer.vocab_size, stages.tokenizer.vocab_size + 4)
    for text, label in TEST:
        ids = [opening, *stages.tokenizer.encode(text)[: T - 2], extract]
        logits, _ = model(torch.tensor([[ids]]), torch.tensor([[len(ids)]]))
        confusion[LABELS.index(label), int(logits.argmax())] += 1
    assert told["confusion"] == confusion.tolist()
    assert told["models"]["pretrained"]["figures"]["accuracy"] == np.trace(confusion) / 5


def test_the_baselines_are_learned_on_the_training_split(stages: Stages, tmp_path: Path) -> None:
    """Most of the training rows are land; most of the test rows are not. Words tell whales and kites."""
    models = evaluation_of(stages.job(tmp_path / "out"))["task"]["models"]
    assert models["majority"]["figures"]["accuracy"] == 1 / 5
    assert models["majority"]["figures"]["macro_f1"] == pytest.approx((2 * 1 / (1 + 5)) / 3)
    assert models["bag_of_words"]["figures"]["accuracy"] == 4 / 5  # nobody knows sails
    few = stages.job(tmp_path / "few")
    assert few.recipe.finetune is not None
    tuning = few.recipe.finetune.model_copy(update={"max_examples": 1})
    few.recipe = few.recipe.model_copy(update={"finetune": tuning})
    models = evaluation_of(few)["task"]["models"]
    assert models["bag_of_words"]["figures"]["accuracy"] == models["majority"]["figures"]["accuracy"]


def test_evaluation_says_how_each_label_fared(stages: Stages, tmp_path: Path) -> None:
    told = evaluation_of(stages.job(tmp_path / "out"))["task"]
    assert told["labels"] == LABELS
    assert [sum(row) for row in told["confusion"]] == [1, 1, 3]
    assert {label: entry["support"] for label, entry in told["per_label"].items()} == {"air": 1, "land": 1, "sea": 3}
    assert sum(part["examples"] for part in told["calibration"]) == told["test_examples"] == 5
    assert (told["train_examples"], told["seeds"], told["kept_seed"]) == (4, [0], 0)


def test_without_a_fine_tuning_only_the_language_model_is_evaluated(stages: Stages, tmp_path: Path) -> None:
    job = stages.job(tmp_path / "out")
    del job.inputs["finetune"]  # type: ignore[attr-defined]
    assert evaluation_of(job).keys() == {"language_model"}


def test_without_a_baseline_there_is_none_in_the_figures(stages: Stages, tmp_path: Path) -> None:
    finetune = tmp_path / "plain"
    (stages.folder / "finetune" / "model").rename(finetune)
    root = tmp_path / "new"
    root.mkdir()
    finetune.rename(root / "model")
    stages.inputs["finetune"] = write_output(root, "finetune")
    outcome = evaluate.make(stages.job(tmp_path / "out"))
    assert "test_accuracy" in outcome.figures
    assert not any(name.startswith(("scratch", "lift")) for name in outcome.figures)


def test_samples_continue_each_prompt_the_same_way_every_time(stages: Stages, tmp_path: Path) -> None:
    def samples(output: str, **fields: object) -> list[dict[str, str]]:
        evaluate.make(stages.job(tmp_path / output, **fields))
        return json.loads((tmp_path / output / "samples.json").read_text())

    first = samples("one")
    assert [sample["prompt"] for sample in first] == ["the whale", "a"]
    assert all(sample["text"] for sample in first)
    assert samples("two") == first != samples("three", seed=1)
    twice = samples("four", prompts=["a", "a"])
    assert twice[0] != twice[1]


@pytest.mark.parametrize("document_mask", [False, True])
def test_a_prompt_begins_a_document_as_those_of_the_training_begin(
    stages: Stages, tmp_path: Path, document_mask: bool
) -> None:
    recipe = stages.job(tmp_path / "out", prompts=["the"]).recipe
    recipe = recipe.model_copy(update={"pretrain": Pretrain(document_mask=document_mask)})
    prompts = evaluate.encode_prompts(recipe, stages.tokenizer, context_length=T)
    before = [] if document_mask else [stages.tokenizer.end_of_text_id]
    assert prompts == [[*before, *stages.tokenizer.encode("the")]]


def test_samples_are_drawn_as_the_recipe_says(stages: Stages, tmp_path: Path) -> None:
    def sample(**fields: object) -> str:
        recipe = stages.job(tmp_path / "out", prompts=["the"], **fields).recipe
        decoder = random_decoder(stages.tokenizer, seed=1)
        return evaluate.write_samples(decoder, stages.tokenizer, recipe.evaluate, [[5, 6]])[0]["text"]

    whole, greedy = sample(), sample(temperature=0)
    assert sample(top_p=1e-6) == sample(top_k=1) == greedy != whole
    assert sample(stop=[whole[2:4]]) == whole[:2]


def test_a_sample_ends_with_its_document(stages: Stages, tmp_path: Path) -> None:
    settings = stages.job(tmp_path / "out", prompts=["the"]).recipe.evaluate
    decoder = random_decoder(stages.tokenizer, seed=1)
    with torch.no_grad():  # now the end is the likeliest by far
        decoder.embedding.weight[stages.tokenizer.end_of_text_id] = 100 * decoder(torch.tensor([[5, 6]]))[0, -1]
    assert evaluate.write_samples(decoder, stages.tokenizer, settings, [[5, 6]]) == [{"prompt": "the", "text": ""}]


def test_a_prompt_longer_than_the_context_is_named(stages: Stages, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"evaluate\.prompts\.1: its \d+ tokens leave no room in model.context_length=16"
    ):
        evaluate.make(stages.job(tmp_path / "out", prompts=["a", "zebra " * 16]))


def test_a_test_label_that_training_never_saw_is_named_before_anything_runs(stages: Stages, tmp_path: Path) -> None:
    path = stages.folder / "test.jsonl"
    write_rows(path, [*TEST[:2], ("a star", "space")])
    with pytest.raises(InputError, match=rf"{re.escape(str(path))}:3: the label 'space'"):
        evaluate.make(stages.job(tmp_path / "out"))
    assert list((tmp_path / "out").iterdir()) == []
