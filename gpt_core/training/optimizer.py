"""AdamW with decay on matrices and embeddings only, as GPT-2 and GPT-3 are commonly trained."""

from torch import nn
from torch.optim import AdamW

from gpt_core.recipe import Optimization


def make_optimizer(model: nn.Module, settings: Optimization) -> AdamW:
    """AdamW over `model`: parameters with two or more dimensions decay, gains and biases do not."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in parameters if parameter.ndim >= 2]
    vectors = [parameter for parameter in parameters if parameter.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return AdamW(
        [group for group in groups if group["params"]],
        lr=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        eps=settings.eps,
    )
