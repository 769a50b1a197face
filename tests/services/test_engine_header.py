from pathlib import Path

import pytest

from models.gguf.header import Header, Value, read_header
from services.engine.memory import cache_bytes
from services.engine.options import SMALL_MODEL_BYTES, choose_threads
from tests.support.tiny_gguf import write_tiny_gguf

DENSE: dict[str, Value] = {
    "general.architecture": "qwen3",
    "qwen3.block_count": 28,
    "qwen3.embedding_length": 2_048,
    "qwen3.attention.head_count": 16,
    "qwen3.attention.head_count_kv": 8,
    "qwen3.attention.key_length": 128,
    "qwen3.attention.value_length": 128,
}


def test_a_header_tells_architecture_context_and_template(tmp_path: Path) -> None:
    header = read_header(write_tiny_gguf(tmp_path / "tiny.gguf"))
    assert header.architecture == "qwen2"
    assert header.context_length == 131_072
    assert header.has_chat_template
    assert header.data_end <= (tmp_path / "tiny.gguf").stat().st_size


def test_the_cache_of_a_dense_model_is_the_sum_over_its_layers() -> None:
    # 28 layers x 8 heads x (128 + 128) values x 2 bytes: 112 KiB a token.
    assert cache_bytes(Header(DENSE, 0), 1) == 112 * 1024
    assert cache_bytes(Header(DENSE, 0), 8_192) == 896 * 2**20


@pytest.mark.parametrize(
    "key", ["attention.sliding_window", "ssm.state_size", "attention.kv_lora_rank"]
)
def test_the_cache_of_a_model_of_mixed_layers_is_not_guessed(key: str) -> None:
    assert cache_bytes(Header({**DENSE, f"qwen3.{key}": 512}, 0), 1) is None


def test_small_models_get_one_thread_and_large_ones_all_cores() -> None:
    assert choose_threads(0, SMALL_MODEL_BYTES - 1) == 1
    assert choose_threads(0, SMALL_MODEL_BYTES) >= 1
    assert choose_threads(3, 10) == 3
