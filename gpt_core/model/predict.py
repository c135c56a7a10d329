"""Encoded examples in, what a fine-tuned model says of each out: for evaluation and for whoever serves it. Torch here.

Examples of like length go together, the longest first: little padding, and the largest batch comes before all others.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from gpt_core.model.decoder import Decoder
from gpt_core.model.heads import TaskModel, example_losses
from gpt_core.tasks.batches import TaskBatch, make_batch
from gpt_core.tasks.sequences import Examples

# In a forward pass, padding in. One thread, 96 texts of 141 tokens, 6 layers x 384: 4.5 s for 256 tokens at once, 4.2
# for 1,024, 4.8 for 4,096, 6.4 for 16,384, whose activations leave the cache; 2 layers x 128: 0.27, 0.23, 0.28, 0.40.
BATCH_TOKENS, GPU_BATCH_TOKENS = 1_024, 16_384
PAD_ID = 0  # attention is causal: any padding will do

Floats = npt.NDArray[np.float64]


def predict(model: TaskModel | Decoder, examples: Examples, report: Callable[[int, int], None] | None = None) -> Floats:
    """The outputs of `examples` in their order, as `scores.score` takes them; the model is in evaluation mode.

    Logits (n, L) of a class or of classes, numbers (n,), logits (n, S) of choices with -inf where an example has
    fewer; of a decoder, which was tuned for completion, (n, 2): the nats and the tokens of each completion.
    `report(done, total)` is told of examples.
    """
    model.eval()
    widths = np.array([len(sequences) for sequences in examples.sequences], dtype=np.int64)
    sizes = examples.lengths * widths.max(initial=1)  # tokens of each, padded to the most sequences
    order = np.argsort(-sizes, kind="stable")
    most = BATCH_TOKENS if next(model.parameters()).device.type == "cpu" else GPU_BATCH_TOKENS
    outputs = None
    start = 0
    while start < len(order):
        rows = order[start : start + max(1, most // int(sizes[order[start]]))]
        made = _run(model, make_batch(examples, rows.tolist(), pad_id=PAD_ID))
        if outputs is None:
            shape = (len(order), widths.max()) if _chooses(model) else (len(order), *made.shape[1:])
            outputs = np.full(shape, -np.inf)
        if _chooses(model):
            outputs[rows, : made.shape[1]] = made
        else:
            outputs[rows] = made
        start += len(rows)
        if report is not None:
            report(start, len(order))
    return np.empty(0) if outputs is None else outputs


def _chooses(model: TaskModel | Decoder) -> bool:
    return isinstance(model, TaskModel) and model.target == "choice"


@torch.inference_mode()
def _run(model: TaskModel | Decoder, batch: TaskBatch) -> Floats:
    device = next(model.parameters()).device
    ids, lengths, targets = (torch.from_numpy(each).to(device) for each in (batch.ids, batch.lengths, batch.targets))
    if isinstance(model, TaskModel):
        outputs, _ = model(ids, lengths)
    else:
        ids, targets = ids.squeeze(1), targets.squeeze(1)  # a completion has one sequence
        _, outputs = example_losses(model(ids), model.embedding.weight, targets)
    made: Floats = outputs.double().cpu().numpy()
    return made
