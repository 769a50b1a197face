"""The header of a GGUF file, read without its long arrays.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The published reader makes an
object per vocabulary entry, which takes half a minute on large vocabularies.
"""

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path

from contracts.errors import EngineError

MAGIC = b"GGUF"
# Type number to struct form: u8 i8 u16 i16 u32 i32 f32 bool, then u64 i64 f64.
SCALARS = dict(enumerate(("<B", "<b", "<H", "<h", "<I", "<i", "<f", "<?")))
SCALARS |= {10: "<Q", 11: "<q", 12: "<d"}
STRING = 8
ARRAY = 9
DEFAULT_ALIGNMENT = 32

Value = int | float | bool | str


@dataclass(frozen=True)
class Header:
    """`values` holds the scalar metadata; `data_end` is the least size of a whole file, bytes."""

    values: dict[str, Value]
    data_end: int

    @property
    def architecture(self) -> str:
        return str(self.values.get("general.architecture", ""))

    @property
    def context_length(self) -> int:
        """Tokens that the model was trained for; 0 if the file does not say."""
        return self.number("context_length")

    def number(self, key: str) -> int:
        """The number under `{architecture}.{key}`; 0 if it is absent or differs by layer."""
        return int(self.values.get(f"{self.architecture}.{key}", 0))

    @property
    def has_chat_template(self) -> bool:
        return "tokenizer.chat_template" in self.values


def read_header(path: Path) -> Header:
    """Read and check the header of the GGUF at `path`. Raises EngineError if it is none, or cut."""
    if not path.is_file():
        raise EngineError(
            "model_missing", f"There is no model file {path}.", "Pull it: variet models pull NAME."
        )
    with path.open("rb") as file:
        if file.read(4) != MAGIC:
            raise EngineError(
                "not_gguf",
                f"{path} is not a GGUF file (it does not start with 'GGUF').",
                "Give a model in GGUF format, or pull one: variet models pull NAME.",
            )
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                header = _Reader(data).header()
            except (struct.error, IndexError, ValueError) as error:
                raise _cut(path, f"its header is damaged ({error})") from error
    size = path.stat().st_size
    if size < header.data_end:
        raise _cut(path, f"it has {size} bytes, its tensors need at least {header.data_end}")
    return header


def _cut(path: Path, reason: str) -> EngineError:
    return EngineError(
        "model_damaged",
        f"{path} is not whole: {reason}.",
        "Delete it and pull it again: variet models pull NAME.",
    )


class _Reader:
    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._at = 4

    def header(self) -> Header:
        version = self._scalar("<I")
        if version not in (2, 3):
            raise ValueError(f"version {version}")
        tensors, pairs = self._scalar("<Q"), self._scalar("<Q")
        values: dict[str, Value] = {}
        for _ in range(int(pairs)):
            key = self._string()
            value = self._value(int(self._scalar("<I")))
            if value is not None:
                values[key] = value
        last = max((self._tensor_offset() for _ in range(int(tensors))), default=0)
        alignment = int(values.get("general.alignment", DEFAULT_ALIGNMENT))
        start = -(-self._at // alignment) * alignment
        return Header(values, start + last + 1 if tensors else self._at)

    def _scalar(self, form: str) -> int | float | bool:
        value: int | float | bool = struct.unpack_from(form, self._data, self._at)[0]
        self._at += struct.calcsize(form)
        return value

    def _skip(self, count: int) -> None:
        self._at += count
        if self._at > len(self._data):
            raise ValueError("a length points past the end")

    def _string(self) -> str:
        length = int(self._scalar("<Q"))
        start = self._at
        self._skip(length)
        return self._data[start : self._at].decode("utf-8", "replace")

    def _value(self, kind: int) -> Value | None:
        if kind == STRING:
            return self._string()
        if kind != ARRAY:
            return self._scalar(SCALARS[kind]) if kind in SCALARS else self._unknown(kind)
        element, count = int(self._scalar("<I")), int(self._scalar("<Q"))
        if element == STRING:
            for _ in range(count):
                self._skip(int(self._scalar("<Q")))
            return None
        form = SCALARS.get(element) or self._unknown(element)
        self._skip(count * struct.calcsize(form))
        return None

    def _unknown(self, kind: int) -> str:
        raise ValueError(f"unknown value type {kind}")

    def _tensor_offset(self) -> int:
        self._string()
        self._skip(8 * int(self._scalar("<I")) + 4)
        return int(self._scalar("<Q"))
