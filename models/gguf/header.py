"""The header of a GGUF file, read without its long arrays.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The published reader makes an
object per vocabulary entry, which takes half a minute on large vocabularies. A file is material
from outside: no length in it is trusted before it is held against the size of the file.
"""

import mmap
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from contracts.errors import EngineError
from models.gguf.quants import tensor_bytes

MAGIC = b"GGUF"
# Type number to struct form: u8 i8 u16 i16 u32 i32 f32 bool, then u64 i64 f64.
SCALARS = dict(enumerate(("<B", "<b", "<H", "<h", "<I", "<i", "<f", "<?")))
SCALARS |= {10: "<Q", 11: "<q", 12: "<d"}
STRING = 8
ARRAY = 9
DEFAULT_ALIGNMENT = 32
DIMENSIONS = 4
# Longer arrays are vocabularies: they are stepped over.
KEPT_ELEMENTS = 4_096
# No model comes near these; a file made to exhaust us would.
MOST_PAIRS = 65_536
MOST_TENSORS = 262_144
MOST_STRINGS = 8 * 2**20
KEPT_BYTES = 64 * 2**20
# The least that a pair, a tensor and a string take in the file.
PAIR_BYTES = 8 + 4 + 1
TENSOR_BYTES = 8 + 4 + 4 + 8
PART = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")
MOST_PARTS = 1_000

Scalar = int | float | bool | str
Value = Scalar | tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class Tensor:
    """`shape` begins with the dimension whose numbers lie side by side; `kind` is ggml's number of
    its format; `offset` counts from the start of the data of its file."""

    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int
    bytes: int


@dataclass(frozen=True)
class Header:
    """`values` holds the metadata: scalars, and arrays of up to 4,096 elements as tuples.
    `data_end` is the least size of a whole file, bytes."""

    values: dict[str, Value]
    data_end: int
    tensors: tuple[Tensor, ...] = ()

    @property
    def architecture(self) -> str:
        return str(self.values.get("general.architecture", ""))

    @property
    def context_length(self) -> int:
        """Tokens that the model was trained for; 0 if the file does not say."""
        return self.number("context_length")

    def value(self, key: str) -> Value | None:
        """What stands under `{architecture}.{key}`."""
        return self.values.get(f"{self.architecture}.{key}")

    def number(self, key: str) -> int:
        """The number under `{architecture}.{key}`; 0 if it is absent or differs by layer."""
        value = self.value(key)
        # A hostile file may hold NaN or infinity, which no int can be.
        if not isinstance(value, int | float) or not 0 <= value <= 2**63:
            return 0
        return int(value)

    @property
    def layers(self) -> int:
        """Blocks of the model; a number that cannot be counts as none."""
        told = self.number("block_count")
        return told if told <= KEPT_ELEMENTS else 0

    def numbers(self, key: str, layers: int, default: int = 0) -> tuple[int, ...]:
        """That number for each layer: an array's elements, else one number for all."""
        value = self.value(key)
        if not isinstance(value, tuple):
            return (self.number(key) or default,) * layers
        told = [one if isinstance(one, int) and one >= 0 else default for one in value[:layers]]
        return (*told, *[default] * (layers - len(told)))

    @property
    def has_chat_template(self) -> bool:
        return "tokenizer.chat_template" in self.values


def read_header(path: Path) -> Header:
    """Read and check the header of the GGUF at `path`. Raises EngineError if it is none, or cut."""
    if not path.is_file():
        raise EngineError(
            "model_missing", f"There is no model file {path}.", "Pull it: variet models pull NAME."
        )
    try:
        size, header = _read(path)
    except (struct.error, ValueError, OverflowError) as error:
        raise _cut(path, f"its header is damaged ({error})") from error
    except OSError as error:
        raise EngineError(
            "model_unreadable",
            f"{path} cannot be read: {error.strerror}.",
            "Give the user that the engine runs as the right to read it.",
        ) from error
    if size < header.data_end:
        raise _cut(path, f"it has {size} bytes, its tensors need at least {header.data_end}")
    return header


def parts(path: Path) -> tuple[Path, ...]:
    """The files of a model that `path` is the first of: `NAME-00001-of-0000N.gguf`; else itself."""
    match = PART.search(path.name)
    if match is None:
        return (path,)
    count = int(match[2])
    if not 0 < count <= MOST_PARTS:
        raise _cut(path, f"its name speaks of {count} parts")
    stem = path.name[: match.start()]
    return tuple(path.with_name(f"{stem}-{n:05}-of-{count:05}.gguf") for n in range(1, count + 1))


def read_model(path: Path) -> Header:
    """The header of a model that may be split: the metadata of its first file, the tensors of all,
    and as `data_end` the sum. Raises EngineError as `read_header` does."""
    headers = [read_header(part) for part in parts(path)]
    return replace(
        headers[0],
        data_end=sum(header.data_end for header in headers),
        tensors=tuple(tensor for header in headers for tensor in header.tensors),
    )


def _read(path: Path) -> tuple[int, Header]:
    with path.open("rb") as file:
        if file.read(4) != MAGIC:
            raise EngineError(
                "not_gguf",
                f"{path} is not a GGUF file (it does not start with 'GGUF').",
                "Give a model in GGUF format, or pull one: variet models pull NAME.",
            )
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return len(data), _Reader(data).header()


def _cut(path: Path, reason: str) -> EngineError:
    return EngineError(
        "model_damaged",
        f"{path} is not whole: {reason}.",
        "Delete it and pull it again: variet models pull NAME.",
    )


class _Reader:
    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._size = len(data)
        self._at = 4
        self._kept = 0
        self._strings_passed = 0

    def header(self) -> Header:
        version = self._integer("<I")
        if version not in (2, 3):
            raise ValueError(f"version {version}")
        tensors = self._count(MOST_TENSORS, TENSOR_BYTES, "tensors", ahead=8)
        pairs = self._count(MOST_PAIRS, PAIR_BYTES, "pairs")
        values: dict[str, Value] = {}
        for _ in range(pairs):
            key = self._string()
            if key in values:
                raise ValueError(f"{key[:64]!r} occurs twice")
            value = self._value(self._integer("<I"))
            if value is not None:
                values[key] = value
        infos = [self._tensor() for _ in range(tensors)]
        if not infos:
            return Header(values, self._at)
        alignment = _alignment(values)
        start = -(-self._at // alignment) * alignment
        whole = tuple(_sized(infos, self._size - start))
        return Header(values, start + max(t.offset + t.bytes for t in whole), whole)

    def _integer(self, form: str) -> int:
        return int(self._scalar(form))

    def _scalar(self, form: str) -> int | float | bool:
        value: int | float | bool = struct.unpack_from(form, self._data, self._at)[0]
        self._at += struct.calcsize(form)
        return value

    def _count(self, most: int, bytes_each: int, what: str, ahead: int = 0) -> int:
        count = self._integer("<Q")
        if count > most or count * bytes_each > self._size - self._at - ahead:
            raise ValueError(f"{count} {what}")
        return count

    def _skip(self, count: int) -> None:
        if count > self._size - self._at:
            raise ValueError("a length points past the end")
        self._at += count

    def _keep(self, count: int) -> None:
        self._kept += count
        if self._kept > KEPT_BYTES:
            raise ValueError(f"more than {KEPT_BYTES} bytes of metadata")

    def _string(self) -> str:
        length = self._integer("<Q")
        start = self._at
        self._skip(length)
        # An object of Python has some sixty bytes besides its text.
        self._keep(length + 64)
        return self._data[start : self._at].decode("utf-8", "replace")

    def _value(self, kind: int) -> Value | None:
        if kind == STRING:
            return self._string()
        if kind != ARRAY:
            return self._scalar(_form(kind))
        element, count = self._integer("<I"), self._integer("<Q")
        if element == STRING:
            return self._strings(count)
        form = _form(element)
        start = self._at
        self._skip(count * struct.calcsize(form))
        if count > KEPT_ELEMENTS:
            return None
        self._keep(count * 40)
        return struct.unpack_from(f"<{count}{form[1]}", self._data, start)

    def _strings(self, count: int) -> tuple[str, ...] | None:
        self._strings_passed += count
        if count * 8 > self._size - self._at or self._strings_passed > MOST_STRINGS:
            raise ValueError(f"an array of {count} texts")
        if count <= KEPT_ELEMENTS:
            return tuple(self._string() for _ in range(count))
        # Vocabularies: a quarter of a million steps, so nothing is called that need not be.
        data, size, at = self._data, self._size, self._at
        length = struct.Struct("<Q").unpack_from
        for _ in range(count):
            at += 8 + length(data, at)[0]
            if at > size:
                raise ValueError("a length points past the end")
        self._at = at
        return None

    def _tensor(self) -> Tensor:
        name = self._string()
        dimensions = self._integer("<I")
        if dimensions > DIMENSIONS:
            raise ValueError(f"a tensor of {dimensions} dimensions")
        shape = tuple(self._integer("<Q") for _ in range(dimensions))
        kind, offset = self._integer("<I"), self._integer("<Q")
        self._keep(256)
        return Tensor(name, shape, kind, offset, 0)


def _form(kind: int) -> str:
    if kind not in SCALARS:
        raise ValueError(f"unknown value type {kind}")
    return SCALARS[kind]


def _alignment(values: dict[str, Value]) -> int:
    alignment = values.get("general.alignment", DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1):
        raise ValueError(f"an alignment of {alignment!r}"[:80])
    return alignment


def _sized(infos: list[Tensor], data: int) -> Iterator[Tensor]:
    """With their sizes. One of a format that is newer than our table reaches to the next one."""
    starts = sorted({tensor.offset for tensor in infos})
    after = dict(zip(starts, [*starts[1:], max(data, starts[-1] + 1)], strict=True))
    for tensor in infos:
        numbers = 1
        for length in tensor.shape:
            numbers *= length
        size = tensor_bytes(tensor.kind, numbers)
        yield replace(tensor, bytes=after[tensor.offset] - tensor.offset if size is None else size)
