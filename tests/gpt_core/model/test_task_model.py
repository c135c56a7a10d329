"""Fine-tuned models on disk: what transformers computes from them is what we compute, and they load as they were."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from tiny_decoder import VOCAB_SIZE, draw_ids, make_decoder

from gpt_core.errors import InputError
from gpt_core.model.decoder import Decoder
from gpt_core.model.heads import TaskModel
from gpt_core.model.hf import load_decoder, load_task_model, save_language_model, save_task_model
from gpt_core.tasks.spec import Marks, Target, TaskSpec
from gpt_core.training.objective import TaskObjective

LABELS = ("art", "law", "sea")
MARKS = Marks.behind(VOCAB_SIZE)
LENGTHS = torch.tensor([10, 2, 6])
PROBLEMS = {"class": "single_label_classification", "classes": "multi_label_classification", "number": "regression"}
TRUTH = {
    "class": torch.tensor([2, 0, 1]),
    "classes": torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 1.0, 0.0]]),
    "number": torch.tensor([0.5, -2.0, 3.0]),
}


def make_spec(target: Target, labels: tuple[str, ...] = LABELS) -> TaskSpec:
    task = {"choice": "multiple_choice", "text": "completion"}.get(target, "classification")
    labels = labels if target in ("class", "classes") else ()
    marks = None if target == "text" else MARKS
    return TaskSpec(task, target, labels, ("text",), "label", 24, marks)  # type: ignore[arg-type]


def make_model(architecture: str, spec: TaskSpec) -> TaskModel:
    decoder = make_decoder(architecture)
    marked = Decoder(replace(decoder.config, pad_id=MARKS.pad))
    marked.load_state_dict(decoder.state_dict())
    model = TaskModel(marked, n_outputs=spec.n_outputs, target=spec.target, dropout=0.1)
    torch.nn.init.normal_(model.score.weight, generator=torch.Generator().manual_seed(4))
    return model.eval()


def padded_ids(lengths: torch.Tensor = LENGTHS) -> torch.Tensor:
    ids = draw_ids(*lengths.shape, 10)
    ids[torch.arange(10) >= lengths[..., None]] = MARKS.pad
    return ids


@pytest.mark.parametrize("target", ["class", "classes", "number"])
def test_transformers_has_our_logits_and_our_loss_of_a_padded_batch(
    architecture: str, target: Target, tmp_path: Path
) -> None:
    spec = make_spec(target)
    model = make_model(architecture, spec)
    save_task_model(model, tmp_path, spec, end_of_text_id=VOCAB_SIZE - 1)
    peer, report = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert (peer.config.pad_token_id, peer.config.problem_type) == (MARKS.pad, PROBLEMS[target])
    assert list(peer.config.id2label.values()) == (list(LABELS) if spec.labels else ["LABEL_0"])
    ids, truth = padded_ids(), TRUTH[target]
    told = peer.eval()(ids, attention_mask=(ids != MARKS.pad).long(), labels=truth)

    objective = TaskObjective(model, spec, "fp32", with_language_model=False)
    loss, _, outputs = objective(ids[:, None], LENGTHS[:, None], ids[:, None], truth)
    torch.testing.assert_close(outputs.view(told.logits.shape), told.logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(loss / len(ids), told.loss, rtol=1e-5, atol=0)


@pytest.mark.parametrize("target", ["class", "choice"])
def test_sequences_combine_as_in_a_sum_over_the_decoder_of_transformers(
    architecture: str, target: Target, tmp_path: Path
) -> None:
    spec = make_spec(target)
    model = make_model(architecture, spec)
    save_task_model(model, tmp_path, spec)
    peer = transformers.AutoModel.from_pretrained(tmp_path).eval()
    lengths = torch.tensor([[10, 2, 6], [4, 9, 0]])
    ids = padded_ids(lengths)
    logits, _ = model(ids, lengths)
    for row, count in enumerate((3, 2)):
        pooled = [peer(ids[row, n : n + 1, : lengths[row, n]]).last_hidden_state[0, -1] for n in range(count)]
        if target == "choice":
            scores = [(each * model.score.weight[0]).sum() for each in pooled]
            torch.testing.assert_close(logits[row, :count], torch.stack(scores), rtol=0, atol=1e-5)
            assert logits[row, count:].isneginf().all()
        else:
            torch.testing.assert_close(logits[row], sum(pooled) @ model.score.weight.T, rtol=0, atol=2e-5)


@pytest.mark.parametrize("target", ["class", "classes", "number", "choice"])
def test_a_saved_model_loads_as_it_was(architecture: str, target: Target, tmp_path: Path) -> None:
    spec = make_spec(target)
    model = make_model(architecture, spec)
    files = save_task_model(model, tmp_path / "new" / "folder", spec)
    assert sorted(path.name for path in files) == ["config.json", "model.safetensors", "task.json"]
    loaded, read = load_task_model(tmp_path / "new" / "folder")
    assert read == spec
    assert isinstance(loaded, TaskModel)
    assert loaded.decoder.config.pad_id == MARKS.pad
    ids, lengths = padded_ids()[:, None], LENGTHS[:, None]
    assert torch.equal(loaded.eval()(ids, lengths)[0], model(ids, lengths)[0])


def test_a_model_of_completions_is_a_language_model(decoder: Decoder, tmp_path: Path) -> None:
    spec = make_spec("text")
    save_task_model(decoder, tmp_path, spec, end_of_text_id=3)
    loaded, read = load_task_model(tmp_path)
    assert (read, type(loaded)) == (spec, Decoder)
    peer = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = draw_ids(2, 12)
    torch.testing.assert_close(peer(ids).logits, decoder.logits(decoder(ids)), rtol=0, atol=1e-5)


def test_as_many_labels_as_outputs_are_saved(tmp_path: Path) -> None:
    model = make_model("gpt2", make_spec("class"))
    with pytest.raises(ValueError, match="2 outputs of the task for 3 of the model"):
        save_task_model(model, tmp_path, make_spec("class", ("a", "b")))


def test_a_task_model_is_no_language_model_and_the_other_way_round(tmp_path: Path) -> None:
    spec = make_spec("class")
    save_task_model(make_model("gpt2", spec), tmp_path / "task", spec)
    with pytest.raises(InputError, match=r"architectures is \['GPT2ForSequenceClassification'\], not \['GPT2LMHead"):
        load_decoder(tmp_path / "task")
    save_language_model(make_decoder("gpt2"), tmp_path / "language")
    with pytest.raises(InputError, match=r"task\.json: does not tell a task"):
        load_task_model(tmp_path / "language")
    spec.write(tmp_path / "language")
    with pytest.raises(InputError, match=r"architectures is \['GPT2LMHeadModel'\], not \['GPT2ForSequence"):
        load_task_model(tmp_path / "language")


def test_labels_in_another_order_than_the_tasks_are_refused(tmp_path: Path) -> None:
    spec = make_spec("class")
    save_task_model(make_model("gpt2", spec), tmp_path, spec)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"id2label": {"0": "law", "1": "art", "2": "sea"}}))
    with pytest.raises(InputError, match=r"config\.json: id2label is \{'0': 'law'.*, not \{'0': 'art'.* task\.json"):
        load_task_model(tmp_path)
