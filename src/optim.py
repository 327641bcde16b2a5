"""Which parameters decay, and the learning rate as a pure function of the step."""

import math

from torch import nn


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Every trainable parameter in exactly one of two groups: matrices decay; nothing else does.

    Only the weights of linear and convolutional layers are decayed. Biases, norms, class token and position
    embeddings are not: shrinking them regularises nothing. Grouping by module rather than by the suffix of a name
    means that a bare parameter, such as the class token, cannot be forgotten.
    """
    matrices = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    trainable = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if id(p) in matrices], "weight_decay": weight_decay},
        {"params": [p for p in trainable if id(p) not in matrices], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def learning_rate(step: int, total_steps: int, warmup_steps: int, peak: float, floor: float) -> float:
    """Linear warm-up to `peak`, then half a cosine to `floor` (Loshchilov & Hutter 2017, arXiv:1608.03983, eq. 5).

    Args:
        step: optimizer steps already taken; the first step is 0 and the last is `total_steps - 1`.
        total_steps: optimizer steps of the whole run. Beyond it the rate stays at `floor`.
        warmup_steps: steps of the warm-up; the peak is reached at this step.
        peak: highest learning rate.
        floor: learning rate of the last step.
    """
    if step < min(warmup_steps, total_steps):
        return peak * (step + 1) / (warmup_steps + 1)
    progress = (step - warmup_steps) / max(1, total_steps - 1 - warmup_steps)
    return floor + (peak - floor) * (1 + math.cos(math.pi * min(1.0, progress))) / 2
