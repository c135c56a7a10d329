"""Fingerprints: what changes a stage's output changes its folder, and nothing else does; and the plan says why."""

import os
import shutil
from pathlib import Path

import pytest
from stage_output import write_output

from gpt_core.errors import InputError, RecipeError
from gpt_core.fingerprint import fingerprint
from gpt_core.recipe import Recipe
from gpt_core.recipe_file import load_recipe
from pipelines.changes import describe_changes
from pipelines.plan import PlannedStage, make_plan, resolve_paths

ROOT = Path(__file__).parents[2]
STAGES = ["clean", "dedup", "tokenizer", "shards", "pretrain", "finetune", "evaluate"]


@pytest.fixture(autouse=True)
def in_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def demo(workspace: Path, *overrides: str) -> Recipe:
    return resolve_paths(load_recipe(ROOT / "recipes/demo.yaml", [f"workspace={workspace}", *overrides]))


def fingerprints(recipe: Recipe) -> dict[str, str]:
    return {planned.stage.name: fingerprint(planned.identity) for planned in make_plan(recipe)}


def make_whole(planned: PlannedStage, recipe: Recipe) -> None:
    """A whole output, as a job would leave it, and the link that the runner sets."""
    planned.output.mkdir(parents=True)
    (planned.output / "file").write_text("made")
    write_output(planned.output, planned.stage.name, identity=planned.identity)
    link = Path(recipe.workspace) / "runs" / recipe.name / planned.stage.name
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(planned.output)


CHANGES = [
    ("corpus.fields.id=key", STAGES),
    ("corpus.max_record_bytes=1000000", STAGES),
    ("clean.pii={}", STAGES),
    ("clean.preset=none", STAGES),
    ("dedup.source_priority=[novels]", STAGES[1:]),
    ("corpus.inputs=[{path: data/demo/novels.jsonl.gz}]", STAGES),
    ("clean.min_language_score=0.5", STAGES),
    ("clean.gopher_quality.max_words=9", STAGES),
    ("clean.gopher_repetition=null", STAGES),
    ("clean.decontaminate_files=[data/demo/topics.train.jsonl.gz]", STAGES),
    ("dedup.bands=20", STAGES[1:]),
    ("tokenizer.vocab_size=5000", STAGES[2:]),
    ("tokenizer.pre_tokenizer=cl100k", STAGES[2:]),
    ("tokenizer.special_tokens=[<|user|>]", STAGES[2:]),
    ("shards.validation_fraction=0.1", STAGES[3:]),
    ("model.n_layer=1", STAGES[4:]),
    ("pretrain.document_mask=true", STAGES[4:]),
    ("pretrain.z_loss=1e-4", STAGES[4:]),
    ("pretrain.learning_rate=1e-5", STAGES[4:]),
    ("pretrain.mixture={novels: {weight: 1}, '*': {weight: 2}}", STAGES[4:]),
    ("pretrain.packing=best_fit", STAGES[4:]),
    ("pretrain.shuffle_shards=4", STAGES[4:]),
    ("finetune.epochs=7", STAGES[5:]),
    ("finetune.train=data/demo/topics.validation.jsonl.gz", STAGES[5:]),
    ("finetune.test=data/demo/topics.train.jsonl.gz", STAGES),  # clean keeps the test texts out
    ("evaluate.top_k=3", STAGES[6:]),
    ("name=other", []),
    ("cluster.spark.partitions=3", []),
    ("cluster.train.zero_stage=1", []),
    ("cluster.train.micro_batch_sequences=1", []),
    ("cluster.train.shards_from=s3://bucket/shards", []),
    ("cluster.train.shard_cache=elsewhere", []),
    ("cluster.train.shard_cache_bytes=1000", []),
    ("tracking.experiment=other", []),
]


@pytest.mark.parametrize(("change", "rerun"), CHANGES, ids=[change for change, _ in CHANGES])
def test_one_changed_field_reruns_exactly_the_stages_below_it(change: str, rerun: list[str], tmp_path: Path) -> None:
    before, after = fingerprints(demo(tmp_path)), fingerprints(demo(tmp_path, change))
    assert [stage for stage in STAGES if before[stage] != after[stage]] == rerun


def test_how_often_a_source_may_be_repeated_changes_nothing(tmp_path: Path) -> None:
    one, other = (
        fingerprints(demo(tmp_path, f"pretrain.mixture={{'*': {{weight: 1, max_epochs: {epochs}}}}}"))
        for epochs in (2, "null")
    )
    assert one == other


def test_a_test_set_that_nothing_is_cleaned_of_reruns_the_evaluation_alone(tmp_path: Path) -> None:
    off = "clean.decontaminate_ngram_words=null"
    before = fingerprints(demo(tmp_path, off))
    after = fingerprints(demo(tmp_path, off, "finetune.test=data/demo/topics.train.jsonl.gz"))
    assert [stage for stage in STAGES if before[stage] != after[stage]] == ["evaluate"]


def test_a_file_is_known_by_its_bytes_not_by_its_folder(tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere" / "novels.jsonl.gz"
    copy.parent.mkdir()
    shutil.copyfile(ROOT / "data/demo/novels.jsonl.gz", copy)
    here = demo(tmp_path, "corpus.inputs=[{path: data/demo/novels.jsonl.gz}]")
    there = demo(tmp_path, f"corpus.inputs=[{{path: {copy}}}]")
    assert fingerprints(here) == fingerprints(there)
    with copy.open("ab") as stream:
        stream.write(b" ")
    assert fingerprints(here)["clean"] != fingerprints(there)["clean"]


def test_of_two_files_of_one_name_the_folders_that_set_them_apart_count_but_not_where_these_are(tmp_path: Path) -> None:
    found = []
    for folders in (("here/en", "here/fr"), ("else/where/en", "else/where/fr"), ("here/a", "here/b")):
        for folder in folders:
            (tmp_path / folder).mkdir(parents=True)
            (tmp_path / folder / "x.jsonl").write_text('{"text": "one"}')
        paths = ", ".join(f"{{path: {tmp_path / folder}/x.jsonl}}" for folder in folders)
        found.append(fingerprints(demo(tmp_path, f"corpus.inputs=[{paths}]"))["clean"])
    assert found[0] == found[1] != found[2]


def test_an_existing_tokenizer_is_known_by_its_bytes_not_by_its_folder(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
        (folder / "tokenizer.json").write_text("{}")
    first, second, third = (
        fingerprints(demo(tmp_path, f"tokenizer={{path: {path}, end_of_text: </s>}}"))
        for path in (here, there, there / "tokenizer.json")
    )
    assert first == second == third
    (there / "tokenizer.json").write_text("{ }")
    (here / "vocab.json").write_text("{}")  # read where there is no tokenizer.json
    changed = fingerprints(demo(tmp_path, f"tokenizer={{path: {there}, end_of_text: </s>}}"))
    assert [stage for stage in STAGES if first[stage] != changed[stage]] == STAGES[2:]
    assert fingerprints(demo(tmp_path, f"tokenizer={{path: {here}, end_of_text: </s>}}")) == first


def test_the_model_to_go_on_from_counts_by_its_bytes_and_not_by_its_place(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "model.safetensors").write_text("weights")
    without = fingerprints(demo(tmp_path))
    one, two = (fingerprints(demo(tmp_path, f"pretrain.init_from={tmp_path}/{name}")) for name in ("one", "two"))
    assert one == two
    assert [stage for stage in STAGES if one[stage] != without[stage]] == STAGES[4:]
    (tmp_path / "two" / "model.safetensors").write_text("other weights")
    changed = fingerprints(demo(tmp_path, f"pretrain.init_from={tmp_path}/two"))
    assert [stage for stage in STAGES if one[stage] != changed[stage]] == STAGES[4:]
    recipe = demo(tmp_path, "pretrain.init_from=nowhere")
    assert recipe.pretrain.init_from == str(ROOT / "nowhere")
    with pytest.raises(InputError, match=r"pretrain\.init_from: .*/nowhere/config\.json: no such file"):
        make_plan(recipe)


def test_a_tokenizers_path_is_made_absolute_and_what_is_missing_there_named(tmp_path: Path) -> None:
    recipe = demo(tmp_path, "tokenizer={path: nowhere}")
    assert recipe.tokenizer.path == str(ROOT / "nowhere")
    with pytest.raises(InputError, match=r"tokenizer\.path: .*/nowhere: no such file"):
        make_plan(recipe)
    with pytest.raises(InputError, match=r"tokenizer\.path: .*/data/tokenizer\.json: no such file"):
        make_plan(demo(tmp_path, "tokenizer={path: data}"))


def test_remembered_digests_follow_a_changed_file(tmp_path: Path) -> None:
    raw = tmp_path / "raw.jsonl"
    raw.write_text('{"text": "one"}\n')
    recipe = demo(tmp_path, f"corpus.inputs=[{{path: {raw}}}]")
    first = fingerprints(recipe)
    assert (tmp_path / ".digests.json").exists()
    assert fingerprints(recipe) == first
    raw.write_text('{"text": "two"}\n')
    os.utime(raw, ns=(1, 1))
    assert fingerprints(recipe)["clean"] != first["clean"]


def test_what_is_whole_is_skipped_and_what_is_below_a_change_runs_and_says_why(tmp_path: Path) -> None:
    recipe = demo(tmp_path)
    for planned in make_plan(recipe):
        make_whole(planned, recipe)
    assert {planned.action for planned in make_plan(recipe)} == {"skip"}

    changed = {p.stage.name: p for p in make_plan(demo(tmp_path, "dedup.seed=5"))}
    assert {name: p.action for name, p in changed.items()} == {"clean": "skip", **dict.fromkeys(STAGES[1:], "run")}
    assert changed["dedup"].why == "dedup.seed: 0 -> 5"
    assert changed["tokenizer"].why == "dedup is another"


def test_a_damaged_output_is_made_again_and_the_damage_named(tmp_path: Path) -> None:
    recipe = demo(tmp_path)
    first = make_plan(recipe)[0]
    make_whole(first, recipe)
    (first.output / "file").write_text("cut")
    again = make_plan(recipe)[0]
    assert again.action == "run"
    assert "file: has 3 bytes, the manifest says 4" in again.why


def test_shards_that_stand_in_a_copy_need_not_stand_locally(tmp_path: Path) -> None:
    recipe, remote = demo(tmp_path), demo(tmp_path, "cluster.train.shards_from=s3://bucket/x")
    (shards,) = [planned for planned in make_plan(recipe) if planned.stage.name == "shards"]
    (shards.output / "train").mkdir(parents=True)
    (shards.output / "train" / "shard-00000.arrow").write_text("tokens")
    (shards.output / "index.json").write_text("{}")
    write_output(shards.output, "shards", identity=shards.identity)
    (shards.output / "train" / "shard-00000.arrow").unlink()

    actions = [{p.stage.name: p.action for p in make_plan(given)}["shards"] for given in (recipe, remote)]
    assert actions == ["run", "skip"]
    (shards.output / "index.json").unlink()
    assert {p.stage.name: p.action for p in make_plan(remote)}["shards"] == "run"


def test_the_folder_of_the_cache_is_made_absolute(tmp_path: Path) -> None:
    recipe = demo(tmp_path, "cluster.train.shard_cache=somewhere")
    assert recipe.cluster.train.shard_cache == str(ROOT / "somewhere")


def test_stages_left_out_are_said_to_be(tmp_path: Path) -> None:
    actions = {planned.stage.name: planned.action for planned in make_plan(demo(tmp_path), until="dedup")}
    assert actions == {"clean": "run", "dedup": "run", **dict.fromkeys(STAGES[2:], "left out")}
    actions = {planned.stage.name: planned.action for planned in make_plan(demo(tmp_path), only="dedup")}
    assert [name for name, action in actions.items() if action == "run"] == ["dedup"]


def test_changes_are_named_as_the_recipe_names_them() -> None:
    old = {"revision": 1, "recipe": {"clean": {"languages": ["en"]}}, "inputs": {"a": "1"}, "files": {"test": []}}
    new = {
        "revision": 2,
        "recipe": {"clean": {"languages": ["fr"]}},
        "inputs": {"a": "2"},
        "files": {"test": [{"x": 1}]},
    }
    assert describe_changes(old, new) == [
        "the test files are others",
        "a is another",
        'clean.languages: ["en"] -> ["fr"]',
        "the stage's revision is another",
    ]


def test_a_file_that_cannot_be_read_is_named_with_its_field(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"finetune\.train: .*/gone\.jsonl: no such file"):
        make_plan(demo(tmp_path, "finetune.train=gone.jsonl"))


def test_a_folder_in_the_place_of_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"finetune\.train: .*: is a directory"):
        make_plan(demo(tmp_path, "finetune.train=data"))


def test_a_remote_path_is_refused_by_its_scheme() -> None:
    with pytest.raises(RecipeError, match="s3:// is not there yet"):
        resolve_paths(load_recipe(ROOT / "recipes/demo.yaml", ["workspace=s3://bucket/w"]))
