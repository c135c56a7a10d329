"""How much an example of each class weighs in the loss."""

import numpy as np
import numpy.typing as npt

from gpt_core.recipe import Finetune
from gpt_core.tasks.sequences import Examples


def class_weights(settings: Finetune, names: tuple[str, ...], train: Examples) -> npt.NDArray[np.float64] | None:
    """The weight of each class, (L,), in the loss of the training examples; None where all weigh the same.

    Balanced, n / (L n_class), every class has the same part in it, and the mean weight is 1; a class of which no
    example was drawn weighs 1.
    """
    given = settings.class_weights
    if given == "none":
        return None
    if given == "balanced":
        counts = np.bincount(train.labels.astype(np.int64), minlength=len(names))
        return np.where(counts > 0, len(train) / (len(names) * np.maximum(counts, 1)), 1.0)
    return np.array([given.get(name, 1.0) for name in names])
