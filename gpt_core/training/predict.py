"""What a fine-tuned model says of labelled examples, in fp32, as whoever loads its files will run it."""

from collections.abc import Callable

import numpy as np
import torch

from gpt_core.model.decoder import Decoder
from gpt_core.model.heads import TaskModel
from gpt_core.tasks.batches import make_batch
from gpt_core.tasks.scores import Values
from gpt_core.tasks.sequences import Examples
from gpt_core.tasks.spec import TaskSpec
from gpt_core.training.objective import CompletionObjective

BATCH_TOKENS = 8192  # in a forward pass, padding in

Report = Callable[[int, int], None]  # examples done, examples in all


def predict(model: TaskModel | Decoder, spec: TaskSpec, examples: Examples, report: Report) -> Values:
    """The model's outputs for all examples in their order, as gpt_core/tasks/scores.py takes them.

    Examples of like length go together, to spare padding; it changes no output, since attention is causal.
    """
    completion = CompletionObjective(model, "fp32") if isinstance(model, Decoder) else None
    device = next(model.parameters()).device
    most = max(map(len, examples.sequences))
    widths = {"choice": most, "text": 2}
    outputs = np.full((len(examples), widths.get(spec.target, spec.n_outputs)), -np.inf, dtype=np.float32)
    order = np.argsort(-examples.lengths, kind="stable")  # the longest first: it says how many go together
    start = 0
    while start < len(order):
        rows = order[start : start + max(1, BATCH_TOKENS // (most * int(examples.lengths[order[start]])))]
        batch = make_batch(examples, rows.tolist(), pad_id=0 if spec.marks is None else spec.marks.pad)
        ids, lengths, targets, labels = (
            torch.from_numpy(array).to(device) for array in (batch.ids, batch.lengths, batch.targets, batch.labels)
        )
        with torch.inference_mode():
            said = model(ids, lengths)[0] if completion is None else completion(ids, lengths, targets, labels)[2]
        said = said.reshape(len(rows), -1).float().cpu().numpy()
        outputs[rows, : said.shape[1]] = said
        start += len(rows)
        report(start, len(order))
    return outputs[:, 0] if spec.target == "number" else outputs
