"""Parameter groups, the Muon optimizer, and the learning rate schedule."""

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from src.config import LRDecay, TrainingConfig
from src.models.ensemble import Ensemble
from src.models.stem import ConvStage
from src.training.precision import cpu_is_faster_in_bf16


def build_optimizer(network: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """Build the configured optimizer for the network's trainable parameters."""
    betas = (0.9, config.beta2)
    if config.optimizer == "muon":
        groups = muon_groups(network, config.weight_decay, config.constant_norm)
        return Muon(groups, lr=config.lr, betas=betas, momentum=config.momentum)
    groups = parameter_groups(network, config.weight_decay)
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=0.9, nesterov=True)
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    # `capturable` would not help: the host sets the learning rate, which rules out CUDA graphs.
    return kind(groups, lr=config.lr, betas=betas, fused=_can_fuse(groups))


def _can_fuse(groups: list[dict[str, Any]]) -> bool:
    return groups[0]["params"][0].device.type in ("cpu", "cuda")


def parameter_groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split the trainable parameters into two groups, with and without weight decay.

    Weight decay applies only to the weights of linear and convolutional layers, not to biases,
    norms, the class token or position embeddings. Grouping by module instead of by name suffix also
    handles bare parameters such as the class token.
    """
    matrices = {id(m.weight) for m in network.modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    trainable = [p for p in network.parameters() if p.requires_grad]
    decaying = [p for p in trainable if id(p) in matrices]
    others = [p for p in trainable if id(p) not in matrices]
    groups: list[dict[str, Any]] = [
        {"params": decaying, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def muon_groups(
    network: nn.Module, weight_decay: float, constant_norm: bool = False
) -> list[dict[str, Any]]:
    """Return the groups of `parameter_groups`, preceded by a `muon` group of the hidden matrices.

    AdamW still updates the first and last matrices of a network (its input and output layers) and
    matrices with a single row (sequence pooling). With `constant_norm`, the stem's convolutions
    (without a first trainable layer) form a separate `muon` group.
    """
    hidden = set()
    for member in network.networks if isinstance(network, Ensemble) else [network]:
        matrices = [m.weight for m in member.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
        hidden |= {id(weight) for weight in matrices[1:-1] if len(weight) > 1}
    groups = parameter_groups(network, weight_decay)
    muon = [p for group in groups for p in group["params"] if id(p) in hidden]
    for group in groups:
        group["params"] = [p for p in group["params"] if id(p) not in hidden]
    if constant_norm:
        stages = [m for m in network.modules() if isinstance(m, ConvStage)]
        kernels = {id(m.weight) for stage in stages for m in (stage.conv1, stage.conv2)}
        stem = [p for p in muon if id(p) in kernels]
        muon = [p for p in muon if id(p) not in kernels]
        groups.insert(0, {"params": stem, "weight_decay": 0.0, "muon": True, "constant_norm": True})
    groups.insert(0, {"params": muon, "weight_decay": weight_decay, "muon": True})
    return [group for group in groups if group["params"]]


def orthogonalize(matrices: Tensor, steps: int = 5) -> Tensor:
    """Approximate the nearest semi-orthogonal matrices to `matrices` [n, M, N].

    All singular values of the result are between 0.7 and 1.2. The method is Newton-Schulz iteration
    with the quintic coefficients of Jordan 2024 (kellerjordan.github.io/posts/muon), in bf16 where
    that is faster.
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    if x.is_cuda or (x.device.type == "cpu" and cpu_is_faster_in_bf16()):
        x = x.to(torch.bfloat16, memory_format=torch.contiguous_format)
    for _ in range(steps):
        square = x @ x.mT
        polynomial = torch.baddbmm(square, square, square, beta=-4.7750, alpha=2.0315)
        x = torch.baddbmm(x, polynomial, x, beta=3.4445)
    return (x.mT if tall else x).to(matrices.dtype)


class Muon(torch.optim.AdamW):
    """A single optimizer that uses Muon for the groups marked `muon` and AdamW for the others.

    Muon steps along the orthogonalized momentum. Its updates are scaled to match the size of
    AdamW's, so both share the learning rate and weight decay (Liu et al. 2025, "Muon is Scalable
    for LLM Training", arXiv:2502.16982, eq. 4). Unlike `torch.optim.Muon`, this class also handles
    convolution kernels, as matrices [outputs, inputs * 3 * 3], and orthogonalizes all matrices of
    the same shape in one batch.

    Groups marked `constant_norm` hold convolutions followed by batch norm, so the scale of their
    weights does not matter. Instead of weight decay, each step first rescales the weights
    [outputs, inputs, 3, 3] to norm sqrt(outputs). The step is then `STEM_RATE` times the learning
    rate, relative to this norm (for outputs <= 9 inputs). The method is from airbench94_muon.py
    (KellerJordan/cifar10-airbench).
    """

    STEM_RATE = 12.0  # a learning rate of 0.01 changes the weights by 12% per step

    def __init__(
        self,
        groups: list[dict[str, Any]],
        lr: float,
        betas: tuple[float, float],
        momentum: float = 0.95,
    ):
        groups = [{"muon": False, "momentum": momentum} | group for group in groups]
        super().__init__(groups, lr=lr, betas=betas, fused=_can_fuse(groups))

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if group["muon"]:
                self._muon_step(group)
        super().step()  # skips Muon's parameters, whose gradients are now None
        return loss

    def _muon_step(self, group: dict[str, Any]) -> None:
        """Update all matrices with multi-tensor ops; on a GPU, separate calls would be slower."""
        parameters = [p for p in group["params"] if p.grad is not None]
        if not parameters:
            return
        for p in parameters:
            if not self.state[p]:  # AdamW expects "step" in every loaded state
                self.state[p] |= {"step": torch.tensor(0.0), "momentum": torch.zeros_like(p)}
        gradients = [p.grad for p in parameters]
        momenta = [self.state[p]["momentum"] for p in parameters]
        torch._foreach_add_([self.state[p]["step"] for p in parameters], 1)
        constant_norm = group.get("constant_norm", False)
        momentum = group.get("momentum", 0.95)  # missing in checkpoints of earlier versions
        torch._foreach_lerp_(momenta, gradients, 1 - momentum)
        updates = torch._foreach_lerp(gradients, momenta, momentum)  # Nesterov momentum
        if constant_norm:
            norms = torch._foreach_norm(parameters)
            factors = [math.sqrt(len(p)) / n for p, n in zip(parameters, norms, strict=True)]
            torch._foreach_mul_(parameters, factors)
        else:
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        by_shape = defaultdict(list)
        for p, update in zip(parameters, updates, strict=True):
            p.grad = None
            matrix = update.flatten(1)
            by_shape[matrix.shape].append((p, matrix))
        for shape, pairs in by_shape.items():
            orthogonal = orthogonalize(torch.stack([matrix for _, matrix in pairs]))
            changes = [new.view_as(p) for (p, _), new in zip(pairs, orthogonal, strict=True)]
            scale = self.STEM_RATE if constant_norm else 0.2 * math.sqrt(max(shape))
            torch._foreach_add_([p for p, _ in pairs], changes, alpha=-group["lr"] * scale)


def learning_rate(
    step: int,
    total_steps: float,
    warmup_steps: int,
    peak: float,
    floor: float,
    decay: LRDecay = "cosine",
) -> float:
    """Return the learning rate: linear warm-up to `peak`, then cosine or linear decay to `floor`.

    The cosine decay follows Loshchilov & Hutter 2017, arXiv:1608.03983, eq. 5.

    Args:
        step: index of the optimizer step, from 0 to `total_steps - 1`.
        total_steps: number of optimizer steps in the run; later steps use `floor`.
        warmup_steps: number of warm-up steps; the step with this index uses `peak`.
        peak: highest learning rate.
        floor: learning rate at the last step.
        decay: shape of the decay.
    """
    if step < min(warmup_steps, total_steps):
        return peak * (step + 1) / (warmup_steps + 1)
    if step >= total_steps:
        return floor
    progress = (step - warmup_steps) / max(1, total_steps - 1 - warmup_steps)
    if decay == "linear":
        return floor + (peak - floor) * (1 - progress)
    return floor + (peak - floor) * (1 + math.cos(math.pi * progress)) / 2
