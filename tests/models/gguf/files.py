"""GGUF files made by hand: headers as one likes them, tensors that take no space on the disk."""

import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

from models.gguf.quants import tensor_bytes

F32, F16, Q8_0, Q4_K, IQ4_XS, MXFP4 = 0, 1, 8, 12, 23, 39
U32, I32, FLOAT, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9
ALIGNMENT = 32

Written = int | float | bool | str | list[int] | list[bool] | list[str]
Shapes = Mapping[str, tuple[tuple[int, ...], int]]


def text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def pair(key: str, value: Written) -> bytes:
    if isinstance(value, list):
        kind = {str: STRING, bool: BOOL}.get(type(value[0]), I32) if value else I32
        body = b"".join(_scalar(one) for one in value)
        return text(key) + struct.pack("<IIQ", ARRAY, kind, len(value)) + body
    kinds = {bool: BOOL, str: STRING, float: FLOAT}
    return text(key) + struct.pack("<I", kinds.get(type(value), U32)) + _scalar(value)


def _scalar(value: int | float | bool | str) -> bytes:
    if isinstance(value, str):
        return text(value)
    if isinstance(value, bool):
        return struct.pack("<?", value)
    return struct.pack("<f", value) if isinstance(value, float) else struct.pack("<i", value)


def tensor(name: str, shape: Iterable[int], kind: int, offset: int) -> bytes:
    lengths = tuple(shape)
    return (
        text(name)
        + struct.pack("<I", len(lengths))
        + struct.pack(f"<{len(lengths)}Q", *lengths)
        + struct.pack("<IQ", kind, offset)
    )


def header(pairs: list[bytes], tensors: list[bytes], version: int = 3) -> bytes:
    start = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(pairs))
    return start + b"".join(pairs) + b"".join(tensors)


def write_gguf(path: Path, values: Mapping[str, Written], shapes: Shapes | None = None) -> Path:
    """Write a whole GGUF; its tensors are holes."""
    infos, offset = [], 0
    for name, (shape, kind) in (shapes or {}).items():
        infos.append(tensor(name, shape, kind, offset))
        numbers = 1
        for length in shape:
            numbers *= length
        offset += -(-(tensor_bytes(kind, numbers) or 0) // ALIGNMENT) * ALIGNMENT
    head = header([pair(key, value) for key, value in values.items()], infos)
    start = -(-len(head) // ALIGNMENT) * ALIGNMENT
    with path.open("wb") as file:
        file.write(head)
        file.truncate(start + offset)
    return path
