"""Attention rollout (Abnar & Zuidema 2020, arXiv:2005.00928, eq. 1)."""

import torch
from torch import Tensor, nn

from src.errors import InputError
from src.models.blocks import Attention, SequencePool
from src.models.ensemble import Ensemble
from src.models.vit import VisionTransformer


@torch.no_grad()
def rollout(network: nn.Module, inputs: Tensor) -> Tensor:
    """Return the contribution of each image token to the head, computed by attention rollout.

    Half of each block's output is assumed to come from its residual connection. Attention weights
    are averaged over heads, and the matrices of all blocks are multiplied. For an ensemble, the
    maps of its networks are averaged.

    Args:
        network: a VisionTransformer, or an Ensemble of them, in eval mode.
        inputs: input of the network: normalized images [B, C, H, W] or patches.

    Returns:
        float32 [B, S, S] for a grid of S x S tokens, without the class token; each map sums to 1.

    Raises:
        InputError: the network has no attention.
    """
    if isinstance(network, Ensemble):
        return torch.stack([rollout(member, inputs) for member in network.networks]).mean(dim=0)
    if not isinstance(network, VisionTransformer):
        raise InputError(f"a {type(network).__name__} has no attention; use a ViT run")
    attention, pooling = _record_weights(network, inputs)
    B, tokens = len(inputs), attention[0].shape[-1]
    if network.pool == "cls":
        flow = torch.eye(1, tokens, device=inputs.device).expand(B, 1, -1)
    elif network.pool == "sequence":
        flow = pooling[0].float()
    else:
        flow = torch.full((B, 1, tokens), 1 / tokens, device=inputs.device)
    for weights in reversed(attention):
        flow = (flow @ weights.float() + flow) / 2
    grid = flow[:, 0, tokens - network.side**2 :]
    return (grid / grid.sum(dim=1, keepdim=True)).unflatten(1, (network.side, network.side))


def _record_weights(
    network: VisionTransformer, inputs: Tensor
) -> tuple[list[Tensor], list[Tensor]]:
    """Return each block's attention weights [B, T, T] and sequence pooling weights [B, 1, T]."""
    attention: list[Tensor] = []
    pooling: list[Tensor] = []

    def record(module: nn.Module, args: tuple) -> None:
        if isinstance(module, Attention):
            attention.append(module.weights(args[0]).mean(dim=1))
        elif isinstance(module, SequencePool):
            pooling.append(module.weights(args[0]).mT)

    hooks = [
        module.register_forward_pre_hook(record)
        for module in network.modules()
        if isinstance(module, Attention | SequencePool)
    ]
    try:
        network.features(inputs)  # a compiled `network(inputs)` would skip the hooks
    finally:
        for hook in hooks:
            hook.remove()
    return attention, pooling
