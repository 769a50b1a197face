import pytest

from services.gateway.engines.readiness import End, broken, last_words, progress, told
from tests.services.gateway.engines.bench import spec

OUT_OF_MEMORY = [
    "load_tensors: loading model tensors, this can take a while... (load_mode = mmap)",
    "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 9216.00 MiB on device 0: cudaMalloc"
    " failed: out of memory",
    "alloc_tensor_range: failed to allocate CUDA0 buffer of size 9663676416",
    "srv    load_model: failed to load model, '/models/m.gguf'",
    "srv    operator(): operator(): cleaning up before exit...",
]


@pytest.mark.parametrize(
    ("lines", "share", "words"),
    [
        ([], None, "starting"),
        (["srv    load_model: loading model '/m.gguf'"], None, "loading the weights"),
        (["load_tensors: loading model tensors ...", "." * 40], 0.4, "loading the weights"),
        (
            [
                "Starting to load model",
                "Loading safetensors checkpoint shards:  40% Completed | 2/5",
            ],
            0.4,
            "loading the weights",
        ),
        (["load_tensors: x", "." * 100, "llama_context: n_seq_max = 1"], None, "making the cache"),
        (["llama_context: x", "common_init: warming up the model"], None, "warming up"),
    ],
)
def test_a_log_tells_how_far_a_load_is(lines: list[str], share: float | None, words: str) -> None:
    assert progress(lines) == (share, words)


def test_want_of_memory_is_told_from_a_crash() -> None:
    assert broken(spec(), End("with exit code 1"), OUT_OF_MEMORY).kind == "out_of_memory"
    assert broken(spec(), End("with exit code 1"), ["error: no such file"]).kind == "crashed"
    assert broken(spec(), End("by signal 9", True), []).kind == "out_of_memory"


def test_an_error_tells_the_last_lines_that_mean_something() -> None:
    error = broken(spec("m"), End("with exit code 1"), OUT_OF_MEMORY)
    assert "cudaMalloc failed" in error.message
    assert "cleaning up" not in error.message
    assert last_words([]) == ""
    assert last_words(["one", "two"]) == " It said: one | two"
    assert told(End("with exit code 1"), ["E no"]) == "with exit code 1. It said: E no"
