import struct
import tracemalloc
from pathlib import Path

import gguf
import numpy as np
import pytest

from contracts.errors import EngineError
from contracts.settings import REPOSITORY
from models.gguf.header import (
    KEPT_ELEMENTS,
    MOST_STRINGS,
    Header,
    Value,
    parts,
    read_header,
    read_model,
)
from models.gguf.quants import FORMATS
from tests.models.gguf.files import F16, F32, Written, header, pair, tensor, write_gguf

NANO = REPOSITORY / "models/nano/nano.gguf"


def test_the_sizes_of_number_formats_are_those_of_the_published_package() -> None:
    published = {
        int(kind): (kind.name, *sizes) for kind, sizes in gguf.constants.GGML_QUANT_SIZES.items()
    }
    assert {kind: FORMATS[kind] for kind in published} == published


def test_a_real_file_is_read_as_the_published_reader_reads_it() -> None:
    ours, theirs = read_header(NANO), gguf.GGUFReader(NANO)
    fields = {
        key: field.contents() for key, field in theirs.fields.items() if not key.startswith("GGUF.")
    }
    for key, value in fields.items():
        mine = ours.values.get(key)
        assert (list(mine) if isinstance(mine, tuple) else mine) == value, key
    assert ours.values.keys() == fields.keys()
    start = theirs.data_offset
    assert [
        (one.name, one.shape, one.kind, start + one.offset, one.bytes) for one in ours.tensors
    ] == [
        (one.name, tuple(one.shape.tolist()), int(one.tensor_type), one.data_offset, one.n_bytes)
        for one in theirs.tensors
    ]
    assert ours.data_end == max(int(one.data_offset + one.n_bytes) for one in theirs.tensors)
    assert isinstance(theirs.tensors[0].data, np.memmap | np.ndarray)


def test_numbers_per_layer_are_told_for_each_and_not_as_one() -> None:
    nano = read_header(NANO)
    assert nano.number("attention.head_count_kv") == 0
    assert nano.numbers("attention.head_count_kv", 6) == (0, 4, 0, 4, 0, 4)
    assert nano.numbers("attention.head_count", 3) == (4, 4, 4)
    assert nano.numbers("attention.head_count_kv", 8, default=2) == (0, 4, 0, 4, 0, 4, 2, 2)


def test_a_vocabulary_is_stepped_over_and_takes_no_memory(tmp_path: Path) -> None:
    tokens = [f"token {n}" for n in range(248_320)]
    values: dict[str, Written] = {
        "general.architecture": "qwen3",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [1] * len(tokens),
        "short": ["a", "b"],
        "edge": [7] * KEPT_ELEMENTS,
    }
    path = write_gguf(tmp_path / "large.gguf", values)
    tracemalloc.start()
    try:
        read = read_header(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert read.values.keys() == {"general.architecture", "short", "edge"}
    assert read.values["short"] == ("a", "b")
    assert peak < 2**20


def test_the_parts_of_a_split_model_are_summed(tmp_path: Path) -> None:
    first = tmp_path / "m-00001-of-00002.gguf"
    write_gguf(first, {"general.architecture": "qwen3"}, {"token_embd.weight": ((64, 10), F16)})
    write_gguf(parts(first)[1], {"split.no": 1}, {"blk.0.attn_q.weight": ((64, 64), F32)})
    model = read_model(first)
    assert model.architecture == "qwen3"
    assert [(one.name, one.bytes) for one in model.tensors] == [
        ("token_embd.weight", 1_280),
        ("blk.0.attn_q.weight", 16_384),
    ]
    assert model.data_end == sum(read_header(part).data_end for part in parts(first))
    parts(first)[1].unlink()
    with pytest.raises(EngineError, match=r"no model file .*m-00002-of-00002\.gguf"):
        read_model(first)


def test_a_tensor_of_an_unknown_format_reaches_to_the_next_one(tmp_path: Path) -> None:
    infos = [tensor("new", (32,), 999, 0), tensor("old", (8,), F32, 96)]
    path = tmp_path / "new.gguf"
    head = header([pair("general.architecture", "x")], infos)
    path.write_bytes(head.ljust(-(-len(head) // 32) * 32) + bytes(128))
    assert [one.bytes for one in read_header(path).tensors] == [96, 32]


def test_a_file_that_lacks_its_end_is_told_from_a_whole_one(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", {}, {"a": ((64,), F32)})
    read_header(path)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 1)
    with pytest.raises(EngineError, match="tensors need at least") as caught:
        read_header(path)
    assert caught.value.code == "model_damaged"


def test_a_folder_and_another_kind_of_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(EngineError) as missing:
        read_header(tmp_path)
    assert missing.value.code == "model_missing"
    other = tmp_path / "page.html"
    other.write_text("<html>")
    with pytest.raises(EngineError) as wrong:
        read_header(other)
    assert wrong.value.code == "not_gguf"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (struct.pack("<IQQ", 3, 0, 2**63), "9223372036854775808 pairs"),
        (struct.pack("<IQQ", 3, 2**40, 0), "1099511627776 tensors"),
        (struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 2**62) + bytes(64), "past the end"),
        (struct.pack("<IQQ", 1, 0, 0), "version 1"),
        (header([pair("a", 1), pair("a", 2)], [])[4:], "'a' occurs twice"),
        (header([pair("general.alignment", 0)], [tensor("t", (1,), 0, 0)])[4:], "alignment of 0"),
        (header([pair("general.alignment", "x")], [tensor("t", (1,), 0, 0)])[4:], "alignment"),
        (header([], [tensor("t", [1] * 5, 0, 0)])[4:], "5 dimensions"),
        (header([pair("a", "")[:-12] + struct.pack("<IIQ", 9, 9, 2**60)], [])[4:], "value type 9"),
        (header([pair("a", "")[:-12] + struct.pack("<IIQ", 9, 8, 2**60)], [])[4:], "texts"),
        (header([pair("a", "")[:-12] + struct.pack("<IIQ", 9, 4, 2**60)], [])[4:], "past the end"),
    ],
)
def test_what_cannot_be_is_refused_before_it_is_believed(
    tmp_path: Path, body: bytes, reason: str
) -> None:
    path = tmp_path / "hostile.gguf"
    path.write_bytes(b"GGUF" + body)
    with pytest.raises(EngineError, match=reason) as caught:
        read_header(path)
    assert caught.value.code == "model_damaged"


def test_numbers_that_are_none_count_as_untold() -> None:
    values: dict[str, Value] = {
        "general.architecture": "x",
        "x.a": float("nan"),
        "x.b": "7",
        "x.c": 1e300,
    }
    read = Header(values, 0)
    assert [read.number(key) for key in "abcd"] == [0, 0, 0, 0]


def test_arrays_that_would_fill_the_memory_are_refused(tmp_path: Path) -> None:
    """Two megabytes of small numbers would be seventy of Python's."""
    path = tmp_path / "bomb.gguf"
    numbers = struct.pack("<IIQ", 9, 0, KEPT_ELEMENTS) + bytes(KEPT_ELEMENTS)
    path.write_bytes(header([pair(f"k{n}", "")[:-12] + numbers for n in range(420)], []))
    with pytest.raises(EngineError, match="bytes of metadata"):
        read_header(path)


def test_an_array_of_more_texts_than_any_vocabulary_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "empty-texts.gguf"
    count = MOST_STRINGS + 1
    with path.open("wb") as file:
        file.write(header([pair("k", "")[:-12] + struct.pack("<IIQ", 9, 8, count)], []))
        file.truncate(file.tell() + 8 * count)
    with pytest.raises(EngineError, match="an array of 8388609 texts"):
        read_header(path)
