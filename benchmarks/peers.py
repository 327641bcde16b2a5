"""The same Vision Transformer from several libraries, with a class token and learned positions.

The networks differ in details. This project computes the last block only for the class token,
because the head reads no other tokens. vit-pytorch has no query, key and value biases, and adds
norms before and after the patch embedding. The tutorial's network is larger, because every head is
as wide as the model.
"""

import importlib.util
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from src.config import DatasetInfo, Pool, ViTConfig
from src.models.vit import VisionTransformer


class Shape(NamedTuple):
    """Model dimensions, the same for every library."""

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
        """Number of tokens: the patches and the class token."""
        return (self.image_size // self.patch_size) ** 2 + 1

    @property
    def hidden(self) -> int:
        """Hidden width of the MLP."""
        return round(self.width * self.mlp_ratio)


def ours(s: Shape, pool: Pool = "cls") -> nn.Module:
    config = ViTConfig(
        width=s.width,
        depth=s.depth,
        heads=s.heads,
        mlp_ratio=s.mlp_ratio,
        pool=pool,
    )
    dataset = DatasetInfo(
        classes=s.classes,  # type: ignore[arg-type]
        image_size=s.image_size,
        channels=s.channels,
        patch_size=s.patch_size,
    )
    return VisionTransformer(config, dataset)


def timm(s: Shape) -> nn.Module:
    from timm.models import VisionTransformer

    return VisionTransformer(
        s.image_size,
        s.patch_size,
        s.channels,
        s.classes,
        embed_dim=s.width,
        depth=s.depth,
        num_heads=s.heads,
        mlp_ratio=s.mlp_ratio,
    )


def torchvision(s: Shape) -> nn.Module:
    from torchvision.models import VisionTransformer

    sizes = (s.image_size, s.patch_size, s.depth, s.heads, s.width, s.hidden)
    network = VisionTransformer(*sizes, num_classes=s.classes)
    if s.channels != 3:  # the class has no argument for the number of channels
        network.conv_proj = nn.Conv2d(s.channels, s.width, s.patch_size, s.patch_size)
    return network


def vit_pytorch(s: Shape) -> nn.Module:
    from vit_pytorch import ViT

    return ViT(
        image_size=s.image_size,
        patch_size=s.patch_size,
        channels=s.channels,
        num_classes=s.classes,
        dim=s.width,
        depth=s.depth,
        heads=s.heads,
        dim_head=s.width // s.heads,
        mlp_dim=s.hidden,
    )


def transformers(s: Shape) -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        image_size=s.image_size,
        patch_size=s.patch_size,
        num_channels=s.channels,
        num_labels=s.classes,
        hidden_size=s.width,
        num_hidden_layers=s.depth,
        num_attention_heads=s.heads,
        intermediate_size=s.hidden,
        attn_implementation="sdpa",
    )
    return Logits(ViTForImageClassification(config))


class Logits(nn.Module):
    """Wrap a Hugging Face network so that it returns only the logits."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images).logits


class Plain(nn.Module):
    """The Vision Transformer of most tutorials, with the given transformer blocks."""

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
        class_token = self.class_token.expand(len(x), -1, -1)
        x = torch.cat([class_token, x], dim=1) + self.positions
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
    blocks = [TutorialBlock(s.width, s.heads, s.hidden) for _ in range(s.depth)]
    return Plain(s, nn.Sequential(*blocks))


class TutorialHead(nn.Module):
    """An attention head as wide as the model, with explicit attention weights."""

    def __init__(self, width: int):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.query(x), self.key(x), self.value(x)
        weights = (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(dim=-1)
        return weights @ v


class TutorialBlock(nn.Module):
    """A transformer block that computes its heads one after another, then projects them."""

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


PEERS: dict[str, Callable[[Shape], nn.Module]] = {
    "ours": ours,
    "timm": timm,
    "torchvision": torchvision,
    "vit-pytorch": vit_pytorch,
    "encoder": encoder,  # nn.TransformerEncoder
    "transformers": transformers,
    "tutorial": tutorial,
}
PACKAGES = ("timm", "torchvision", "vit-pytorch", "transformers")


def installed(names: list[str]) -> list[str]:
    """Return the installed peers, and print the missing ones."""
    packages = [name for name in names if name in PACKAGES]
    missing = [name for name in packages if not importlib.util.find_spec(name.replace("-", "_"))]
    if missing:
        command = "pip install -r requirements-dev.txt -r benchmarks/requirements.txt"
        print(f"not installed, left out: {', '.join(missing)} ({command})\n")
    return [name for name in names if name not in missing]


def parameters(network: nn.Module) -> int:
    """Return the number of parameters of a network."""
    return sum(p.numel() for p in network.parameters())
