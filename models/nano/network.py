"""The network of nano: llama.cpp's `lfm2` architecture, small.

Blocks alternate gated short convolutions and attention with normalised queries and keys. A
convolution puts each token's predecessors into its state, so a single attention layer can copy
("induction"), which is most of what this model has to do. Source of the architecture: Liquid AI,
"LFM2 Technical Report" (2025); of the layout of its tensors: llama.cpp, `src/models/lfm2.cpp`.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Shape:
    """Sizes of the network. `blocks` holds one letter per block: c(onvolution) or a(ttention)."""

    vocabulary: int = 2048
    width: int = 256
    blocks: str = "cacaca"
    heads: int = 4
    inner: int = 768
    taps: int = 3
    rope_base: float = 10_000.0
    epsilon: float = 1e-5
    context: int = 2048

    @property
    def head_width(self) -> int:
        return self.width // self.heads


class Norm(nn.Module):
    """Root-mean-square norm with a gain."""

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.size(-1),), self.weight.to(x.dtype), self.epsilon)


def _linear(x: Tensor, weight: Tensor) -> Tensor:
    return F.linear(x, weight.to(x.dtype))


def _matrix(rows: int, columns: int, scale: float = 1.0) -> nn.Parameter:
    return nn.Parameter(torch.randn(rows, columns) * (scale * columns**-0.5))


class Convolution(nn.Module):
    """Gated causal depthwise convolution over `taps` tokens."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        d = shape.width
        self.taps = shape.taps
        self.in_proj = _matrix(3 * d, d)
        self.kernel = nn.Parameter(torch.randn(d, shape.taps) * shape.taps**-0.5)
        self.out_proj = _matrix(d, d, 0.3)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        before, after, value = _linear(x, self.in_proj).chunk(3, dim=-1)
        signal = before * value
        kernel = self.kernel.to(x.dtype)
        length = x.size(1)
        padded = F.pad(signal, (0, 0, self.taps - 1, 0))
        mixed = kernel[:, 0] * padded[:, :length]
        for tap in range(1, self.taps):
            mixed = mixed + kernel[:, tap] * padded[:, tap : tap + length]
        return _linear(after * mixed, self.out_proj)


class Attention(nn.Module):
    """Causal attention; queries and keys are normalised per head, then rotated."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        d = shape.width
        self.heads, self.head_width = shape.heads, shape.head_width
        self.q, self.k, self.v = _matrix(d, d), _matrix(d, d), _matrix(d, d)
        self.o = _matrix(d, d, 0.3)
        self.q_norm = Norm(shape.head_width, shape.epsilon)
        self.k_norm = Norm(shape.head_width, shape.epsilon)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, length, width = x.shape
        parts = (batch, length, self.heads, self.head_width)
        q = _rotate(self.q_norm(_linear(x, self.q).view(parts)), cos, sin).transpose(1, 2)
        k = _rotate(self.k_norm(_linear(x, self.k).view(parts)), cos, sin).transpose(1, 2)
        v = _linear(x, self.v).view(parts).transpose(1, 2)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return _linear(y.transpose(1, 2).reshape(batch, length, width), self.o)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


class Block(nn.Module):
    """Mixer, then gated feed-forward, each on a normalised copy of the stream."""

    def __init__(self, shape: Shape, kind: str) -> None:
        super().__init__()
        d = shape.width
        self.mix_norm = Norm(d, shape.epsilon)
        self.mixer = Convolution(shape) if kind == "c" else Attention(shape)
        self.feed_norm = Norm(d, shape.epsilon)
        self.gate, self.up = _matrix(shape.inner, d), _matrix(shape.inner, d)
        self.down = _matrix(d, shape.inner, 0.3)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.mixer(self.mix_norm(x), cos, sin)
        h = self.feed_norm(x)
        return x + _linear(F.silu(_linear(h, self.gate)) * _linear(h, self.up), self.down)


class Network(nn.Module):
    """Token ids (batch, length) to states (batch, length, width); `logits` turns states to scores.

    The embedding is tied to the output. Weights are float32; the work is done in `dtype`.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Parameter(torch.randn(shape.vocabulary, shape.width) * 0.02)
        self.blocks = nn.ModuleList(Block(shape, kind) for kind in shape.blocks)
        self.norm = Norm(shape.width, shape.epsilon)

    def forward(self, ids: Tensor, dtype: torch.dtype = torch.bfloat16) -> Tensor:
        cos, sin = self._angles(ids.size(1), dtype)
        x = F.embedding(ids, self.embedding).to(dtype)
        for block in self.blocks:
            x = block(x, cos, sin)
        return self.norm(x)

    def logits(self, states: Tensor) -> Tensor:
        return _linear(states, self.embedding).float()

    def _angles(self, length: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        half = self.shape.head_width // 2
        rates = self.shape.rope_base ** (-torch.arange(half) / half)
        angles = torch.outer(torch.arange(length), rates)[:, None, :]
        return angles.cos().to(dtype), angles.sin().to(dtype)
