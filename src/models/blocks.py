"""Building blocks of a Vision Transformer. See `vit.py` for the shape suffixes."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DropPath(nn.Module):
    """Stochastic depth per sample (Huang et al. 2016, arXiv:1603.09382)."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]; kept samples are divided by the keep probability."""
        if self.rate == 0 or not self.training:
            return x
        keep = 1 - self.rate
        return x * (x.new_empty(x.shape[0], 1, 1).bernoulli_(keep) / keep)


class LocalBias(nn.Module):
    """Learned attention bias for each head and each offset between two tokens of a grid.

    Initially, each head prefers one of the eight neighbors of a token, so attention resembles a 3x3
    convolution (d'Ascoli et al. 2021, "ConViT", arXiv:2103.10697, section 3).

    Args:
        heads: number of attention heads.
        side: number of tokens along one side of the grid.
    """

    NEIGHBORS = (
        (0, 1),
        (0, -1),
        (1, 0),
        (-1, 0),
        (1, 1),
        (-1, -1),
        (1, -1),
        (-1, 1),
    )  # (y, x) offsets

    def __init__(self, heads: int, side: int):
        super().__init__()
        self.side = side
        self.table = nn.Parameter(torch.empty(heads, 2 * side - 1, 2 * side - 1))

    def reset_parameters(self) -> None:
        """Set the biases to minus the squared distance from the preferred neighbor."""
        axis = torch.arange(1.0 - self.side, self.side)
        with torch.no_grad():
            for head, biases in enumerate(self.table):
                y, x = self.NEIGHBORS[head % len(self.NEIGHBORS)]
                biases.copy_(-((axis[:, None] - y) ** 2) - (axis - x) ** 2)

    def forward(self) -> Tensor:
        """Return the biases [heads, T, T] for all queries and keys."""
        # Indexing would be simpler, but its gradient on several CPU threads is not deterministic.
        windows = self.table.unfold(1, self.side, 1).unfold(2, self.side, 1)
        return windows.flip(1, 2).flatten(3).flatten(1, 2)


class Attention(nn.Module):
    """Multi-head self-attention (equations 5 to 8 of the paper); head size is `width / heads`.

    With `local_side`, the side length of the token grid, a `LocalBias` is added to the logits.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        local_side: int | None = None,
    ):
        super().__init__()
        self.heads = heads
        self.attention_dropout = attention_dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.drop = nn.Dropout(dropout)
        self.bias = LocalBias(heads, local_side) if local_side else None

    def forward(self, x_BTD: Tensor, queries: int | None = None) -> Tensor:
        """[B, T, D] -> [B, queries, D]: the first `queries` tokens attend to all tokens."""
        q, k, v = self._project(x_BTD)
        dropout = self.attention_dropout if self.training else 0.0
        bias = self.bias()[:, :queries] if self.bias else None
        x = attend(q[:, :, :queries], k, v, dropout, bias)
        return self.drop(self.out(x.transpose(1, 2).flatten(2)))

    def weights(self, x_BTD: Tensor) -> Tensor:
        """Return the attention weights [B, heads, T, T], which `forward` does not store."""
        q, k, _ = self._project(x_BTD)
        bias = self.bias() if self.bias else 0.0
        return (q @ k.mT / math.sqrt(q.shape[-1]) + bias).softmax(dim=-1)

    def _project(self, x_BTD: Tensor) -> Tensor:
        """[B, T, D] -> queries, keys and values, [3, B, heads, T, D / heads]."""
        B, T, D = x_BTD.shape
        qkv = self.qkv(x_BTD).view(B, T, 3, self.heads, D // self.heads)
        return qkv.permute(2, 0, 3, 1, 4)


def attend(q: Tensor, k: Tensor, v: Tensor, dropout: float, bias: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias) v, equations 6 and 7.

    The shapes are [B, heads, Q, d] for q, [B, heads, T, d] for k and v, and [heads, Q, T] for bias.
    """
    bias = None if bias is None else bias.to(q.dtype)
    if q.device.type != "cpu" or q.dtype != torch.bfloat16:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout)
    # PyTorch's fused bf16 kernel for CPUs takes 2 to 10 times as long as these matrix products.
    logits = q * q.shape[-1] ** -0.5 @ k.mT
    weights = (logits if bias is None else logits + bias).softmax(dim=-1)
    return F.dropout(weights, dropout) @ v


class Block(nn.Module):
    """Pre-norm encoder block (equations 2 and 3 of the paper)."""

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_ratio: float,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        drop_path: float = 0.0,
        local_side: int | None = None,
    ):
        super().__init__()
        hidden = round(width * mlp_ratio)
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attention = Attention(width, heads, dropout, attention_dropout, local_side)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, width),
            nn.Dropout(dropout),
        )
        self.drop_path = DropPath(drop_path)

    def reset_parameters(self, zero_output: bool = False) -> None:
        """Initialize query, key and value matrices separately, and the MLP biases.

        With `zero_output`, the output weights of attention and MLP are zero.
        """
        for weight in self.attention.qkv.weight.chunk(3):
            nn.init.xavier_uniform_(weight)
        if self.attention.bias:
            self.attention.bias.reset_parameters()
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.bias, std=1e-6)
        if zero_output:
            for name in ("attention.out.weight", "mlp.3.weight"):
                nn.init.zeros_(self.get_parameter(name))

    def forward(self, x_BTD: Tensor, queries: int | None = None) -> Tensor:
        """[B, T, D] -> [B, queries, D]; `queries` limits the output to the first tokens."""
        attended = self.attention(self.norm1(x_BTD), queries)
        x_BTD = x_BTD[:, :queries] + self.drop_path(attended)
        return x_BTD + self.drop_path(self.mlp(self.norm2(x_BTD)))


class SequencePool(nn.Module):
    """Sequence pooling from CCT (Hassani et al. 2021, arXiv:2104.05704, eqs. 5 and 6)."""

    def __init__(self, width: int):
        super().__init__()
        self.score = nn.Linear(width, 1, bias=False)  # a bias would cancel in the softmax

    def forward(self, x_BTD: Tensor) -> Tensor:
        """[B, T, D] -> [B, D]"""
        return (self.weights(x_BTD).transpose(1, 2) @ x_BTD).squeeze(1)

    def weights(self, x_BTD: Tensor) -> Tensor:
        """Return the token weights [B, T, 1], which sum to 1."""
        return self.score(x_BTD).softmax(dim=1)


def sincos_positions(side: int, width: int) -> Tensor:
    """Return fixed 2-D position embeddings (Beyer et al. 2022, arXiv:2205.01580), [side**2, width].

    The four quarters of the width contain sin x, cos x, sin y and cos y.
    """
    frequency = 10_000 ** -torch.linspace(0, 1, width // 4, dtype=torch.float64)
    axis = torch.arange(side, dtype=torch.float64)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    x = x.reshape(-1, 1) * frequency
    y = y.reshape(-1, 1) * frequency
    return torch.cat([x.sin(), x.cos(), y.sin(), y.cos()], dim=1).float()
