"""What llama.cpp keeps of each request: keys and values of layers that attend, states of those that
do not. Source: llama.cpp's `llama-kv-cache*.cpp`, `llama-memory-recurrent.cpp` and
`llama-hparams.cpp`.
"""

from dataclasses import dataclass

from models.gguf.header import Header
from models.gguf.launch import Launch
from models.gguf.quants import CACHE_BYTES

PADDING = 256
F32_BYTES = 4
# Of every N layers all but the last attend to a window only. llama.cpp knows this by architecture,
# where the file does not say; the layers of an unknown one count as if they attended to everything.
WINDOW_PERIODS = {
    "gemma2": 2,
    "gemma3": 6,
    "gemma3n": 5,
    "gemma-embedding": 6,
    "gpt-oss": 2,
    "cohere2": 4,
    "exaone4": 4,
    "olmo2": 4,
    "smallthinker": 4,
    "afmoe": 4,
}
# They have no cache: each request is worked through at once.
WITHOUT_CACHE = ("bert", "dream", "llada", "rnd1", "gemma-embedding")
ATTEND_AND_RECUR = ("falcon-h1",)


@dataclass(frozen=True, slots=True)
class LayerCache:
    """Bytes of one layer: `attention` of all requests, `state` of one."""

    attention: float
    state: float
    windowed: bool = False


def layer_caches(header: Header, launch: Launch) -> tuple[LayerCache, ...]:
    """Of each layer, first to last."""
    layers = header.layers
    if any(name in header.architecture for name in WITHOUT_CACHE):
        return ()
    return tuple(_Shape(header, layers, launch).layer(index) for index in range(layers))


class _Shape:
    def __init__(self, header: Header, layers: int, launch: Launch) -> None:
        self._header = header
        self._launch = launch
        self._layers = layers
        heads = header.numbers("attention.head_count", layers)
        self._kv_heads = header.numbers("attention.head_count_kv", layers)
        if header.value("attention.head_count_kv") is None:
            self._kv_heads = heads
        width = header.number("embedding_length")
        self._default_width = width // max(heads, default=1) if any(heads) else 0
        # Of each stream: with a unified cache, all requests share `context` tokens.
        self._full = _padded(launch.context)

    def layer(self, index: int) -> LayerCache:
        recurrent = self._recurrent(index)
        if recurrent and self._header.architecture not in ATTEND_AND_RECUR:
            return LayerCache(0, self._state())
        state = self._state() if recurrent else 0
        if index >= self._layers - self._header.number("attention.shared_kv_layers"):
            return LayerCache(0, state)
        windowed = self._windowed(index)
        cells = self._window_cells() if windowed else self._full
        per_token = self._keys(index, windowed) + self._values(index, windowed)
        return LayerCache(cells * self._launch.streams * per_token, state, windowed)

    def _recurrent(self, index: int) -> bool:
        if interval := self._header.number("full_attention_interval"):
            return (index + 1) % interval != 0
        return self._kv_heads[index] == 0 or self._header.architecture in ATTEND_AND_RECUR

    def _windowed(self, index: int) -> bool:
        if not self._header.number("attention.sliding_window") or self._launch.swa_full:
            return False
        told = self._header.value("attention.sliding_window_pattern")
        if isinstance(told, tuple):
            return index < len(told) and bool(told[index])
        known = WINDOW_PERIODS.get(self._header.architecture, 1)
        period = self._header.number("attention.sliding_window_pattern") or known
        return index % period < period - 1

    def _window_cells(self) -> int:
        sequences = self._launch.parallel if self._launch.unified else 1
        window = self._header.number("attention.sliding_window") * sequences
        return min(self._full, _padded(window + self._launch.ubatch))

    def _keys(self, index: int, windowed: bool) -> float:
        numbers = self._kv_heads[index] * self._width("key", windowed)
        return numbers * CACHE_BYTES.get(self._launch.key_type, 2)

    def _values(self, index: int, windowed: bool) -> float:
        # Latent attention: the values are made from what is kept as keys.
        if self._header.number("attention.key_length_mla"):
            return 0
        numbers = self._kv_heads[index] * self._width("value", windowed)
        return numbers * CACHE_BYTES.get(self._launch.value_type, 2)

    def _width(self, what: str, windowed: bool) -> int:
        own = self._header.number(f"attention.{what}_length_swa") if windowed else 0
        return own or self._header.number(f"attention.{what}_length") or self._default_width

    def _state(self) -> int:
        number = self._header.number
        if cells := number("shortconv.l_cache"):
            return F32_BYTES * number("embedding_length") * (cells - 1)
        if heads := number("wkv.head_size"):
            width = number("embedding_length")
            return F32_BYTES * (2 * width + width * heads)
        inner, state = number("ssm.inner_size"), number("ssm.state_size")
        groups, convolution = number("ssm.group_count"), number("ssm.conv_kernel")
        shifted = max(0, convolution - 1) * (inner + 2 * groups * state)
        return F32_BYTES * (shifted + state * inner)


def _padded(tokens: int) -> int:
    return -(-tokens // PADDING) * PADDING
