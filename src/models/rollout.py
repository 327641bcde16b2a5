"""Where a Vision Transformer looks: attention rollout (Abnar & Zuidema 2020, arXiv:2005.00928, eq. 1)."""

import torch
from torch import Tensor, nn

from src.errors import InputError
from src.models.ensemble import Ensemble
from src.models.vit import VisionTransformer


@torch.no_grad()
def rollout(network: nn.Module, inputs: Tensor) -> Tensor:
    """How much of each token reaches the head, if attention is followed through all blocks.

    Half of what a block puts out is taken to come by its residual connection, heads are averaged, and the matrices of
    the blocks are multiplied. The head then reads the class token, the mean of all tokens, or the weighted mean of
    sequence pooling. With an ensemble it is the mean of its networks.

    Args:
        network: a VisionTransformer with patches or a convolutional stem, or an Ensemble of them, in eval mode.
        inputs: what the network takes, normalized images [B, C, H, W] or patches.

    Returns:
        float32 [B, S, S] for a grid of S x S tokens, on the device of the inputs; each sums to 1, without the class
        token.

    Raises:
        InputError: the network has no attention.
    """
    if isinstance(network, Ensemble):
        return torch.stack([rollout(member, inputs) for member in network.networks]).mean(dim=0)
    if not isinstance(network, VisionTransformer):
        raise InputError(f"a {type(network).__name__} has no attention; use a run of a ViT")
    matrices, reads = [], []  # of each block, [B, T, T]; of sequence pooling, [B, 1, T]
    hooks = [
        block.attention.register_forward_pre_hook(
            lambda module, args: matrices.append(module.weights(*args).mean(1))
        )
        for block in network.blocks
    ]
    if network.pool == "sequence":
        pool = network.sequence_pool
        hooks.append(
            pool.register_forward_pre_hook(
                lambda module, args: reads.append(module.weights(*args).mT)
            )
        )
    try:
        network.features(inputs)  # past a compiled call, which does not know of the hooks
    finally:
        for hook in hooks:
            hook.remove()
    tokens = matrices[0].shape[-1]
    if network.pool == "cls":
        read = torch.eye(1, tokens, device=inputs.device).expand(len(inputs), 1, -1)
    else:
        read = (
            reads[0].float()
            if reads
            else torch.full((len(inputs), 1, tokens), 1 / tokens, device=inputs.device)
        )
    for matrix in reversed(matrices):
        read = (read @ matrix.float() + read) / 2
    grid = read[:, 0, tokens - network.side**2 :]
    return (grid / grid.sum(dim=1, keepdim=True)).unflatten(1, (network.side, network.side))
