"""A file from outside may hold anything: reading it ends with a header or with an EngineError."""

import contextlib
import struct
import tempfile
import tracemalloc
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.errors import EngineError
from contracts.settings import REPOSITORY
from models.gguf.header import Header, read_header
from tests.models.gguf.files import F16, header, pair, tensor

# The header of the demo model without its vocabulary's end, so that changes hit what counts.
NANO = (REPOSITORY / "models/nano/nano.gguf").read_bytes()[:4_096]
SMALL = header(
    [
        pair("general.architecture", "llama"),
        pair("llama.block_count", 4),
        pair("llama.attention.head_count_kv", [1, 2, 3, 4]),
        pair("tokenizer.ggml.tokens", ["a", "bc", "def"]),
        pair("llama.rope.freq_base", 10_000.0),
    ],
    [tensor("token_embd.weight", (32, 3), F16, 0), tensor("output.weight", (32, 3), F16, 192)],
) + bytes(512)
HUGE = st.sampled_from([0, 1, 2**16, 2**31, 2**32 - 1, 2**40, 2**63, 2**64 - 1])
EXAMPLES = settings(max_examples=150, deadline=None, derandomize=True)
# What one read may hold at once: the limit of the reader with what Python adds.
MOST_BYTES = 2 * 2**20


def read(data: bytes) -> Header | None:
    """Its header; None where it was refused. Anything else than an EngineError fails the test."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "fuzz.gguf")
        path.write_bytes(data)
        tracemalloc.start()
        try:
            with contextlib.suppress(EngineError):
                return read_header(path)
            return None
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert peak < MOST_BYTES


def use(found: Header | None) -> None:
    """What code asks of a header has to hold for any that was accepted."""
    if found is None:
        return
    assert found.number("block_count") <= 2**63
    assert len(found.numbers("attention.head_count_kv", 8)) == 8
    assert all(one.bytes >= 0 for one in found.tensors)
    assert found.context_length is not None


def test_the_small_file_is_whole_before_it_is_changed() -> None:
    found = read(SMALL)
    assert found is not None
    assert found.values["llama.attention.head_count_kv"] == (1, 2, 3, 4)


@EXAMPLES
@given(st.binary(max_size=2_000))
def test_random_bytes(data: bytes) -> None:
    use(read(data))
    use(read(b"GGUF" + data))
    use(read(b"GGUF" + struct.pack("<I", 3) + data))


@EXAMPLES
@given(st.lists(st.tuples(st.integers(4, len(SMALL) - 1), st.integers(0, 255)), max_size=8))
def test_changed_bytes(changes: list[tuple[int, int]]) -> None:
    data = bytearray(SMALL)
    for place, value in changes:
        data[place] = value
    use(read(bytes(data)))


@EXAMPLES
@given(st.integers(8, len(SMALL) - 8), HUGE, st.sampled_from(["<Q", "<I"]))
def test_numbers_that_are_too_large_anywhere(place: int, value: int, form: str) -> None:
    data = bytearray(SMALL)
    struct.pack_into(form, data, place, value % 256 ** struct.calcsize(form))
    use(read(bytes(data)))


@EXAMPLES
@given(st.integers(4, len(SMALL)), st.integers(0, 64))
def test_files_that_end_early_or_lack_a_piece(end: int, gap: int) -> None:
    use(read(SMALL[:end]))
    use(read(SMALL[:end] + SMALL[end + gap :]))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(4, len(NANO) - 8), HUGE)
def test_a_real_header_with_a_number_that_is_too_large(place: int, value: int) -> None:
    data = bytearray(NANO)
    struct.pack_into("<Q", data, place, value)
    use(read(bytes(data)))


@EXAMPLES
@given(st.integers(1, 200), HUGE, st.integers(0, 12))
def test_arrays_in_arrays(depth: int, count: int, element: int) -> None:
    nested = struct.pack("<IQ", 9, 1) * depth + struct.pack("<IQ", element, count)
    body = pair("a", "")[:-12] + struct.pack("<I", 9) + nested
    use(read(header([body], []) + bytes(64)))


@EXAMPLES
@given(HUGE, HUGE)
def test_counts_of_pairs_and_tensors(tensors: int, pairs: int) -> None:
    use(read(b"GGUF" + struct.pack("<IQQ", 3, tensors, pairs) + SMALL[24:]))


@EXAMPLES
@given(st.lists(HUGE, max_size=6), st.integers(0, 2**32 - 1), HUGE)
def test_shapes_formats_and_offsets_of_tensors(shape: list[int], kind: int, offset: int) -> None:
    use(read(header([], [tensor("t", shape, kind, offset)]) + bytes(64)))
