"""One Vision Transformer, with a class token and learned positions, as several libraries and the old tutorials have it.

They differ in details. Ours computes in the last block the class token alone, which is all that its head reads.
vit-pytorch has no biases for queries, keys and values, and norms around the embedding. The tutorial's is a network of
its own, far larger: every head is as wide as the model.
"""

import importlib.util
import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from src.models.vit import VisionTransformer


class Shape(NamedTuple):
    """What all of them are given."""

    image_size: int
    channels: int
    patch_size: int
    width: int
    depth: int
    heads: int
    mlp_ratio: float = 4
    classes: int = 10

    @property
    def tokens(self) -> int:
        """Those of the patches, and the class token."""
        return (self.image_size // self.patch_size) ** 2 + 1

    @property
    def hidden(self) -> int:
        return round(self.width * self.mlp_ratio)


def ours(s: Shape) -> nn.Module:
    return VisionTransformer(**s._asdict())


def timm(s: Shape) -> nn.Module:
    from timm.models import VisionTransformer

    sizes = dict(embed_dim=s.width, depth=s.depth, num_heads=s.heads, mlp_ratio=s.mlp_ratio)
    return VisionTransformer(s.image_size, s.patch_size, s.channels, s.classes, **sizes)


def torchvision(s: Shape) -> nn.Module:
    from torchvision.models import VisionTransformer

    sizes = dict(num_layers=s.depth, num_heads=s.heads, hidden_dim=s.width, mlp_dim=s.hidden)
    network = VisionTransformer(s.image_size, s.patch_size, num_classes=s.classes, **sizes)
    if s.channels != 3:  # which it takes for granted
        network.conv_proj = nn.Conv2d(s.channels, s.width, s.patch_size, s.patch_size)
    return network


def vit_pytorch(s: Shape) -> nn.Module:
    from vit_pytorch import ViT

    sizes = dict(
        dim=s.width, depth=s.depth, heads=s.heads, dim_head=s.width // s.heads, mlp_dim=s.hidden
    )
    return ViT(
        image_size=s.image_size,
        patch_size=s.patch_size,
        channels=s.channels,
        num_classes=s.classes,
        **sizes,
    )


def transformers(s: Shape) -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    images = dict(
        image_size=s.image_size,
        patch_size=s.patch_size,
        num_channels=s.channels,
        num_labels=s.classes,
    )
    sizes = dict(hidden_size=s.width, num_hidden_layers=s.depth, num_attention_heads=s.heads)
    config = ViTConfig(**images, **sizes, intermediate_size=s.hidden, attn_implementation="sdpa")
    return Logits(ViTForImageClassification(config))


class Logits(nn.Module):
    """Images to logits, as the others; Hugging Face's networks give an object that has the logits."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images).logits


class Plain(nn.Module):
    """Embedding, class token, positions, blocks, norm and head, written down as most tutorials do."""

    def __init__(self, s: Shape, blocks: nn.Module):
        super().__init__()
        self.embed = nn.Conv2d(s.channels, s.width, s.patch_size, s.patch_size)
        self.class_token = nn.Parameter(torch.zeros(1, 1, s.width))
        self.positions = nn.Parameter(0.02 * torch.randn(1, s.tokens, s.width))
        self.blocks = blocks
        self.norm = nn.LayerNorm(s.width)
        self.head = nn.Linear(s.width, s.classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.embed(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_token.expand(len(x), -1, -1), x], dim=1) + self.positions
        return self.head(self.norm(self.blocks(x))[:, 0])


def encoder(s: Shape) -> nn.Module:
    layer = nn.TransformerEncoderLayer(
        s.width,
        s.heads,
        s.hidden,
        dropout=0.0,
        activation="gelu",
        batch_first=True,
        norm_first=True,
    )
    return Plain(s, nn.TransformerEncoder(layer, s.depth, enable_nested_tensor=False))


def tutorial(s: Shape) -> nn.Module:
    return Plain(
        s, nn.Sequential(*(TutorialBlock(s.width, s.heads, s.hidden) for _ in range(s.depth)))
    )


class TutorialHead(nn.Module):
    """One head, as wide as the model, its weights written out."""

    def __init__(self, width: int):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.query(x), self.key(x), self.value(x)
        return (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(dim=-1) @ v


class TutorialBlock(nn.Module):
    """Heads one after the other, and a projection from all of them back to the width."""

    def __init__(self, width: int, heads: int, hidden: int):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.heads = nn.ModuleList(TutorialHead(width) for _ in range(heads))
        self.out = nn.Linear(heads * width, width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm1(x)
        x = x + self.out(torch.cat([head(normed) for head in self.heads], dim=-1))
        return x + self.mlp(self.norm2(x))


PEERS = {
    "ours": ours,
    "timm": timm,
    "torchvision": torchvision,
    "vit-pytorch": vit_pytorch,
    "encoder": encoder,  # nn.TransformerEncoder
    "transformers": transformers,
    "tutorial": tutorial,
}
PACKAGES = (
    "timm",
    "torchvision",
    "vit-pytorch",
    "transformers",
)  # the peers that are packages of their own


def installed(names: list[str]) -> list[str]:
    """Those of the peers that can be measured here; says which cannot."""
    missing = [
        name
        for name in names
        if name in PACKAGES and not importlib.util.find_spec(name.replace("-", "_"))
    ]
    if missing:
        how = "pip install -r requirements-dev.txt -r benchmarks/requirements.txt"
        print(f"left out, for they are not installed: {', '.join(missing)} ({how})\n")
    return [name for name in names if name not in missing]
