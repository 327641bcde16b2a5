"""The Vision Transformer of Dosovitskiy et al. 2021, "An Image is Worth 16x16 Words", arXiv:2010.11929.

Shapes are written with these letters:
    B batch   C channels   H, W height and width   P patch size
    N patches   T tokens (N, and one more with a class token)   D width   K classes
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.errors import InputError
from src.models.stem import ConvStem
from src.transforms.patchify import check_patch_size, patchify, unpatchify

# Table 1 of the paper; Ti and S from Steiner et al. 2021, "How to train your ViT?", arXiv:2106.10270.
SIZES = {
    "Ti": {"width": 192, "depth": 12, "heads": 3},
    "S": {"width": 384, "depth": 12, "heads": 6},
    "B": {"width": 768, "depth": 12, "heads": 12},
    "L": {"width": 1024, "depth": 24, "heads": 16},
}

POOLS = ("cls", "mean", "sequence")
POSITIONS = ("learned", "sincos")
MAX_PARAMETERS = (
    2 * 10**9
)  # with gradients and moments 32 GB; what is larger is a slip of the finger


class DropPath(nn.Module):
    """Stochastic depth (Huang et al. 2016, arXiv:1603.09382): drop the residual branch of whole samples."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]; kept samples are divided by the keep probability, so the mean stays."""
        if self.rate == 0 or not self.training:
            return x
        keep = 1 - self.rate
        return x * (x.new_empty(x.shape[0], 1, 1).bernoulli_(keep) / keep)


class Attention(nn.Module):
    """Multi-head self-attention, equations 5 to 8 of the paper: every head is `width / heads` wide."""

    def __init__(
        self, width: int, heads: int, dropout: float = 0.0, attention_dropout: float = 0.0
    ):
        super().__init__()
        self.heads = heads
        self.attention_dropout = attention_dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.drop = nn.Dropout(dropout)

    def forward(self, x_BTD: Tensor, needed: int | None = None) -> Tensor:
        """[B, T, D] -> [B, needed, D]: what the first `needed` tokens (all, by default) read from all tokens."""
        B, _, D = x_BTD.shape
        q, k, v = self._queries_keys_values(x_BTD)
        x = attend(q[:, :, :needed], k, v, self.attention_dropout if self.training else 0.0)
        return self.drop(self.out(x.transpose(1, 2).reshape(B, -1, D)))

    def weights(self, x_BTD: Tensor) -> Tensor:
        """The attention weights that `forward` applies, [B, heads, T, T], which it never holds itself."""
        q, k, _ = self._queries_keys_values(x_BTD)
        return (q @ k.mT / math.sqrt(q.shape[-1])).softmax(dim=-1)

    def _queries_keys_values(self, x_BTD: Tensor) -> Tensor:
        B, T, D = x_BTD.shape
        return self.qkv(x_BTD).view(B, T, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4)


def attend(q: Tensor, k: Tensor, v: Tensor, dropout: float) -> Tensor:
    """softmax(q k^T / sqrt(d)) v, equations 6 and 7; all are [B, heads, T, d], and q may have fewer tokens."""
    if q.device.type != "cpu" or q.dtype != torch.bfloat16:
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
    # PyTorch's own kernel for bf16 on CPUs takes 2 to 10 times as long as these products.
    weights = (q * q.shape[-1] ** -0.5 @ k.mT).softmax(dim=-1)
    return F.dropout(weights, dropout) @ v


class Block(nn.Module):
    """A pre-norm encoder block, equations 2 and 3 of the paper."""

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_ratio: float,
        dropout: float,
        attention_dropout: float,
        drop_path: float,
    ):
        super().__init__()
        hidden = round(width * mlp_ratio)
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attention = Attention(width, heads, dropout, attention_dropout)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, width),
            nn.Dropout(dropout),
        )
        self.drop_path = DropPath(drop_path)

    def forward(self, x_BTD: Tensor, needed: int | None = None) -> Tensor:
        """[B, T, D] -> [B, needed, D]: the first `needed` tokens; all, by default."""
        x_BTD = x_BTD[:, :needed] + self.drop_path(self.attention(self.norm1(x_BTD), needed=needed))
        return x_BTD + self.drop_path(self.mlp(self.norm2(x_BTD)))


class SequencePool(nn.Module):
    """CCT's sequence pooling: a learned softmax weight for every token, instead of a class token."""

    def __init__(self, width: int):
        super().__init__()
        self.score = nn.Linear(width, 1, bias=False)  # softmax ignores a constant

    def forward(self, x_BTD: Tensor) -> Tensor:
        return (self.weights(x_BTD).transpose(1, 2) @ x_BTD).squeeze(1)

    def weights(self, x_BTD: Tensor) -> Tensor:
        """How much each token counts, [B, T, 1]; they sum to 1."""
        return self.score(x_BTD).softmax(dim=1)


def sincos_positions(side: int, width: int) -> Tensor:
    """Fixed 2-D sine and cosine positions (Beyer et al. 2022, arXiv:2205.01580), [side * side, width].

    A quarter of the width each holds sin x, cos x, sin y, cos y.
    """
    frequency = 10_000 ** -torch.linspace(0, 1, width // 4, dtype=torch.float64)
    y, x = torch.meshgrid(*[torch.arange(side, dtype=torch.float64)] * 2, indexing="ij")
    x, y = x.reshape(-1, 1) * frequency, y.reshape(-1, 1) * frequency
    return torch.cat([x.sin(), x.cos(), y.sin(), y.cos()], dim=1).float()


class VisionTransformer(nn.Module):
    """Image patches to class logits, equations 1 to 4 of the paper.

    Args:
        image_size: side of the square images in pixels.
        patch_size: side P of a patch; it must divide `image_size`. None with a convolutional stem.
        channels: channels of the images (1 gray, 3 color).
        classes: number of classes K; 0 leaves the head out and returns the pooled features [B, D].
        size: one of the paper's sizes; gives those of `width`, `depth` and `heads` that are not given.
        width: length D of every token (embedding dimension).
        depth: number of blocks.
        heads: attention heads of a block; they must divide `width`.
        mlp_ratio: hidden width of the MLP as a multiple of `width`.
        pool: what the head reads: the class token, the mean of all tokens, or CCT's sequence pooling.
        positions: learned position embeddings, or fixed 2-D sine and cosine.
        stem_layers: 0 projects patches linearly, as in the paper; n > 0 reads whole images (`data.patch_size: null`)
            through n stages of convolutions, each halving the side.
        stem_width: channels of the first of its stages; the others are then as wide as a token. None doubles them.
        whiten: the stem begins with fixed, whitening filters (`Whiten`), and has GELU in place of ReLU.
        mirror: evaluate an image and its mirror image, in twice the time: the mean of both logits.
        dropout: dropout after the embedding, the attention projection and both MLP layers.
        attention_dropout: dropout of the attention weights.
        drop_path: stochastic depth of the last block; it grows linearly from 0 at the first.

    Raises:
        InputError: when the sizes do not fit each other.
    """

    def __init__(
        self,
        *,
        image_size: int,
        patch_size: int | None,
        channels: int,
        classes: int,
        size: Literal[tuple(SIZES)] = "Ti",
        width: int | None = None,
        depth: int | None = None,
        heads: int | None = None,
        mlp_ratio: float = 4.0,
        pool: Literal[POOLS] = "cls",
        positions: Literal[POSITIONS] = "learned",
        stem_layers: int = 0,
        stem_width: int | None = None,
        whiten: bool = False,
        mirror: bool = False,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        drop_path: float = 0.0,
    ):
        super().__init__()
        _check_choices(size=(size, SIZES), pool=(pool, POOLS), positions=(positions, POSITIONS))
        given = {"width": width, "depth": depth, "heads": heads}.items()
        width, depth, heads = (SIZES[size][key] if value is None else value for key, value in given)
        self.side = _grid_side(image_size, patch_size, stem_layers, whiten)
        self.patch_size, self.pool, self.mirror = patch_size, pool, mirror
        _check(width, depth, heads, mlp_ratio, positions, (dropout, attention_dropout, drop_path))
        stem = ConvStem(channels, width, stem_layers, stem_width, whiten) if stem_layers else None
        self.embed = stem or nn.Linear(patch_size**2 * channels, width)
        if extra := int(pool == "cls"):
            self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        if positions == "learned":
            self.positions = nn.Parameter(torch.empty(1, extra + self.side**2, width))
        else:
            self.register_buffer(
                "positions", F.pad(sincos_positions(self.side, width), (0, 0, extra, 0))[None]
            )
        self.drop = nn.Dropout(dropout)
        rates = [drop_path * i / max(1, depth - 1) for i in range(depth)]
        self.blocks = nn.ModuleList(
            Block(width, heads, mlp_ratio, dropout, attention_dropout, r) for r in rates
        )
        self.norm = nn.LayerNorm(width, eps=1e-6)
        if pool == "sequence":
            self.sequence_pool = SequencePool(width)
        self.head = nn.Linear(width, classes) if classes else nn.Identity()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialize as the authors' code does: Xavier for the blocks, LeCun for the embedding, zero for the head."""
        if (
            self.norm.weight.is_meta
        ):  # weights are loaded next, and PyTorch's normal_ would import its compiler
            return
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for block in self.blocks:
            for weight in block.attention.qkv.weight.chunk(
                3
            ):  # query, key and value are three matrices in the paper
                nn.init.xavier_uniform_(weight)
            for layer in (block.mlp[0], block.mlp[3]):
                nn.init.normal_(layer.bias, std=1e-6)
        if isinstance(self.embed, nn.Linear):
            nn.init.trunc_normal_(self.embed.weight, std=math.sqrt(1 / self.embed.in_features))
        else:
            for conv in self.embed.stages.modules():
                if isinstance(conv, nn.Conv2d):
                    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
        if isinstance(self.positions, nn.Parameter):
            nn.init.normal_(self.positions, std=0.02)
        if isinstance(self.head, nn.Linear):
            nn.init.zeros_(self.head.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Patches [B, N, P*P*C], or normalized images [B, C, H, W] -> logits [B, K]. A stem takes images alone."""
        logits = self.head(self.features(x))
        if self.mirror and not self.training:
            P = self.patch_size
            images = x if x.ndim == 4 else unpatchify(x, P, self.side * P, x.shape[2] // P**2)
            logits = (logits + self.head(self.features(images.flip(3)))) / 2
        return logits

    def features(self, x: Tensor) -> Tensor:
        """The same input -> the pooled, normalized representation y of equation 4, [B, D]."""
        if self.patch_size and x.ndim == 4:
            x = patchify(x, self.patch_size)
        x_BTD = self.embed(x)
        if self.pool == "cls":
            x_BTD = torch.cat([self.class_token.expand(x_BTD.shape[0], -1, -1), x_BTD], dim=1)
        x_BTD = self.drop(x_BTD + self.positions)
        for block in self.blocks:
            alone = (
                self.pool == "cls" and block is self.blocks[-1]
            )  # the head reads the class token alone
            x_BTD = block(x_BTD, 1 if alone else None)
        x_BTD = self.norm(x_BTD)
        if self.pool == "cls":
            return x_BTD[:, 0]
        return x_BTD.mean(dim=1) if self.pool == "mean" else self.sequence_pool(x_BTD)


def _grid_side(image_size: int, patch_size: int | None, stem_layers: int, whiten: bool) -> int:
    """Tokens along one side of the image."""
    if stem_layers < 0:
        raise InputError(f"stem_layers {stem_layers}: use 0 for a plain ViT, or more")
    if whiten and not stem_layers:
        raise InputError(
            "whiten true: is for a convolutional stem; use --model.whiten false, or stem_layers above 0"
        )
    if bool(stem_layers) == (patch_size is not None):
        raise InputError(
            f"patch_size {'null' if patch_size is None else patch_size} and stem_layers {stem_layers}: a convolutional "
            "stem reads whole images (--data.patch_size null), a plain ViT reads patches (--model.stem_layers 0)"
        )
    if patch_size is not None:
        check_patch_size(patch_size, (image_size, image_size))
        return image_size // patch_size
    if image_size % 2**stem_layers:
        often = f"image_size {image_size} cannot be halved so often"
        raise InputError(
            f"stem_layers {stem_layers}: {often}; use fewer layers, or an image_size that can"
        )
    return image_size // 2**stem_layers


def _check_choices(**given: tuple[str, tuple[str, ...]]) -> None:
    for name, (value, choices) in given.items():
        if value not in choices:
            raise InputError(f"{name} {value!r} is unknown; choose one of {', '.join(choices)}")


def _check(
    width: int, depth: int, heads: int, mlp_ratio: float, positions: str, rates: tuple[float, ...]
) -> None:
    if min(width, depth, heads) < 1:
        raise InputError(f"width {width}, depth {depth} and heads {heads} must all be at least 1")
    if not math.isfinite(mlp_ratio) or round(width * mlp_ratio) < 1:
        raise InputError(
            f"mlp_ratio {mlp_ratio} gives no number of hidden units; use a value above 0, for example 4"
        )
    if (count := depth * width * (4 * width + 2 * round(width * mlp_ratio))) > MAX_PARAMETERS:
        sizes = f"width {width}, depth {depth} and mlp_ratio {mlp_ratio:g}"
        raise InputError(
            f"{sizes} make {count:.1e} parameters; use smaller ones, {MAX_PARAMETERS:.0e} at most"
        )
    if width % heads:
        fits = [h for h in range(1, min(width, 64) + 1) if width % h == 0]
        raise InputError(
            f"heads {heads} does not divide width {width}; choose one of {', '.join(map(str, fits))}"
        )
    if positions == "sincos" and width % 4:
        raise InputError(f"positions sincos needs a width that 4 divides, not {width}")
    if any(not 0 <= rate < 1 for rate in rates):
        raise InputError(
            f"dropout, attention_dropout and drop_path must lie in [0, 1), not {rates}"
        )
