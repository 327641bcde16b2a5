"""Attention rollout (Abnar & Zuidema 2020, arXiv:2005.00928, eq. 1)."""

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.errors import InputError
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
        Without `whiten_pad`, the tokens do not reach the lower and right edges of the image. The
        last row and column are then repeated, so that the map covers the whole image.

    Raises:
        InputError: the network has no attention.
    """
    if isinstance(network, Ensemble):
        return torch.stack([rollout(member, inputs) for member in network.networks]).mean(dim=0)
    if not isinstance(network, VisionTransformer):
        raise InputError(f"a {type(network).__name__} has no attention; use a ViT run")
    x = network.tokens(inputs)
    attention: list[Tensor] = []
    blocks: Iterable[Any] = network.blocks
    for block in blocks:
        attention.append(block.attention.weights(block.norm1(x)).mean(dim=1))
        x = block(x)
    B, tokens = x.shape[:2]
    if network.pool == "cls":
        flow = torch.eye(1, tokens, device=inputs.device).expand(B, 1, -1)
    elif network.pool == "sequence":
        flow = network.sequence_pool.weights(network.norm(x)).mT.float()
    elif network.pool == "max":
        winners = network.norm(x).argmax(dim=1)  # [B, D]: the token that supplies each feature
        flow = F.one_hot(winners, tokens).float().mean(dim=1, keepdim=True)
    else:
        flow = torch.full((B, 1, tokens), 1 / tokens, device=inputs.device)
    for weights in reversed(attention):
        flow = (flow @ weights.float() + flow) / 2
    grid = flow[:, 0, tokens - network.side**2 :]
    maps = grid.unflatten(1, (network.side, network.side))
    if not network.whiten_pad:
        maps = F.pad(maps, (0, 1, 0, 1), mode="replicate")
    return maps / maps.sum(dim=(1, 2), keepdim=True)
