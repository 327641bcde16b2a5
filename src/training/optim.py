"""Which parameters decay, the Muon optimizer, and the learning rate as a pure function of the step."""

import math
from collections import defaultdict

import torch
from torch import Tensor, nn

from src.models.ensemble import Ensemble
from src.training.precision import cpu_multiplies_bf16


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Every trainable parameter in exactly one of two groups: matrices decay; nothing else does.

    Only the weights of linear and convolutional layers are decayed. Biases, norms, class token and position
    embeddings are not: shrinking them regularizes nothing. Grouping by module rather than by the suffix of a name
    means that a bare parameter, such as the class token, cannot be forgotten.
    """
    matrices = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    trainable = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if id(p) in matrices], "weight_decay": weight_decay},
        {"params": [p for p in trainable if id(p) not in matrices], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def muon_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """The groups of `parameter_groups`, and before them a third, `muon`: the matrices between hidden features.

    Pixels and classes are no hidden features: the first and the last matrix of the network stay with AdamW, and so
    does a matrix of a single row, as in sequence pooling.
    """
    hidden = set()
    for network in model.networks if isinstance(model, Ensemble) else [model]:
        matrices = [m.weight for m in network.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
        hidden |= {id(weight) for weight in matrices[1:-1] if len(weight) > 1}
    groups = parameter_groups(model, weight_decay)
    muon = [p for group in groups for p in group["params"] if id(p) in hidden]
    for group in groups:
        group["params"] = [p for p in group["params"] if id(p) not in hidden]
    groups.insert(0, {"params": muon, "weight_decay": weight_decay, "muon": True})
    return [group for group in groups if group["params"]]


def orthogonalize(matrices: Tensor, steps: int = 5) -> Tensor:
    """[n, M, N] -> the nearest semi-orthogonal matrices, roughly: all singular values come to lie in 0.7 to 1.2.

    Newton-Schulz iteration with Jordan's quintic coefficients (kellerjordan.github.io/posts/muon, 2024); like his, in
    bf16, where the device multiplies that faster.
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    if x.is_cuda or cpu_multiplies_bf16():
        x = x.to(torch.bfloat16, memory_format=torch.contiguous_format)
    for _ in range(steps):
        square = x @ x.mT
        x = torch.baddbmm(
            x, torch.baddbmm(square, square, square, beta=-4.7750, alpha=2.0315), x, beta=3.4445
        )
    return (x.mT if tall else x).to(matrices.dtype)


class Muon(torch.optim.AdamW):
    """Muon for the groups marked `muon`, AdamW for all others, so that there is one optimizer to step and to resume.

    Muon steps along the momentum made orthogonal: no direction of a matrix is left behind. Updates are scaled to the
    size of AdamW's, so both share learning rate and decay (Liu et al. 2025, "Muon is Scalable for LLM Training",
    arXiv:2502.16982, eq. 4). `torch.optim.Muon` takes 2-D parameters alone; here convolutions are matrices too,
    [outputs, inputs * 3 * 3], and matrices of one shape are worked on together.
    """

    MOMENTUM = 0.95

    def __init__(self, groups: list[dict], lr: float, betas: tuple[float, float]):
        groups = [{"muon": False} | group for group in groups]
        fused = groups[0]["params"][0].device.type in ("cpu", "cuda")
        super().__init__(groups, lr=lr, betas=betas, fused=fused)

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if group["muon"]:
                self._muon_step(group)
        super().step()  # passes over parameters without a gradient, as Muon's are by now
        return loss

    def _muon_step(self, group: dict) -> None:
        """Over lists of tensors where it can be: on a GPU a call for every matrix would take longer than its work."""
        parameters = [p for p in group["params"] if p.grad is not None]
        if not parameters:
            return
        for p in parameters:
            if not self.state[p]:  # with the step, which AdamW expects of every state that it loads
                self.state[p] |= {"step": torch.tensor(0.0), "momentum": torch.zeros_like(p)}
        gradients, states = [p.grad for p in parameters], [self.state[p] for p in parameters]
        momenta = [state["momentum"] for state in states]
        torch._foreach_add_([state["step"] for state in states], 1)
        torch._foreach_lerp_(momenta, gradients, 1 - self.MOMENTUM)
        updates = torch._foreach_lerp(gradients, momenta, self.MOMENTUM)  # Nesterov's
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        by_shape = defaultdict(list)
        for p, update in zip(parameters, updates, strict=True):
            p.grad = None
            by_shape[update.flatten(1).shape].append((p, update.flatten(1)))
        for shape, pairs in by_shape.items():
            orthogonal = orthogonalize(torch.stack([update for _, update in pairs]))
            changes = [update.view_as(p) for (p, _), update in zip(pairs, orthogonal, strict=True)]
            rate = group["lr"] * 0.2 * math.sqrt(max(shape))
            torch._foreach_add_([p for p, _ in pairs], changes, alpha=-rate)


def learning_rate(
    step: int, total_steps: int, warmup_steps: int, peak: float, floor: float
) -> float:
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
