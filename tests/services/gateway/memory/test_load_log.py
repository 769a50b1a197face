"""Lines of a processor are those that Debian's llama-server 0.7.0 (build 11669) printed with
verbosity 4, and that the wheel's llama.cpp prints here. Lines of cards were reported; not run on a
GPU."""

import subprocess
import sys

import pytest

from contracts.settings import REPOSITORY
from services.gateway.memory.load_log import out_of_memory, read_log, seen_mib

NANO = REPOSITORY / "models/nano/nano.gguf"
DEBIAN = """\
0.00.022.280 I cmn  common_param:   - CPU     : Intel(R) Xeon(R) Processor (24105 MiB, 24105 MiB free)
0.00.038.067 I common_memory_breakdown_print: |   - Host               |                   24 =     1 +      12 +      11                |
0.00.044.704 I load_tensors:          AMX model buffer size =    10.75 MiB
0.00.044.745 I load_tensors:   CPU_Mapped model buffer size =     1.00 MiB
0.00.044.747 I load_tensors:   CPU_Mapped model buffer size =     0.00 MiB
0.00.062.248 I llama_context:        CPU  output buffer size =     0.02 MiB
0.00.062.317 I llama_kv_cache:        CPU KV buffer size =    12.00 MiB
0.00.070.300 I llama_kv_cache: size =   12.00 MiB (  4096 cells,   3 layers,  2/1 seqs), K (f16):    6.00 MiB, V (f16):    6.00 MiB
0.00.070.865 I llama_memory_recurrent:        CPU RS buffer size =     0.01 MiB
0.00.074.090 I sched_reserve:        CPU compute buffer size =    11.02 MiB
0.00.088.489 I srv    load_model: prompt cache is enabled, size limit: 512 MiB
"""  # noqa: E501
CARDS = """\
llama_model_load_from_file_impl: using device CUDA0 (NVIDIA GeForce RTX 3060) (0000:01:00.0) - 11764 MiB free
llama_model_load_from_file_impl: using device CUDA1 (NVIDIA GeForce RTX 3060) (0000:04:00.0) - 11014 MiB free
load_tensors:        CUDA0 model buffer size =  8123.40 MiB
load_tensors:        CUDA1 model buffer size =  7950.10 MiB
load_tensors:   CPU_Mapped model buffer size =   682.03 MiB
llama_context:  CUDA_Host  output buffer size =     0.95 MiB
llama_kv_cache:      CUDA0 KV buffer size =   340.00 MiB
llama_kv_cache:      CUDA1 KV buffer size =   340.00 MiB
llama_kv_cache:      CUDA0 KV buffer size =    10.00 MiB
llama_memory_recurrent:      CUDA0 RS buffer size =    33.50 MiB
llama_context:      CUDA0 compute buffer size =   900.00 MiB
llama_context: compute buffer allocation failed, retrying without pipeline parallelism
llama_context:      CUDA0 compute buffer size =   404.01 MiB
llama_context:      CUDA1 compute buffer size =   810.00 MiB
llama_context:  CUDA_Host compute buffer size =   136.02 MiB
"""  # noqa: E501


def test_a_start_on_a_processor_is_summed() -> None:
    log = read_log(DEBIAN.splitlines())
    assert log.buffers == {
        "AMX": 10.75,
        "CPU_Mapped": 1.0,
        "CPU": pytest.approx(0.02 + 12.0 + 0.01 + 11.02),
    }
    # 34.8 of buffers, 100 for the process, 512 for the cache of prompts, which fills later.
    assert log.by_device(()) == {"ram": 135 + 512}
    assert not log.out_of_memory


def test_a_start_on_cards_is_summed_by_the_presets_cards() -> None:
    log = read_log(CARDS.splitlines())
    assert log.free == {"CUDA0": 11_764, "CUDA1": 11_014}
    # The buffers of the second try count, with 400 MiB of CUDA's own and 500 in main memory.
    assert seen_mib(CARDS.splitlines(), (1, 0)) == {
        "card1": 9_311,
        "card0": 9_501,
        "ram": 1_419,
    }
    assert not log.out_of_memory


def test_a_log_without_figures_tells_nothing() -> None:
    assert seen_mib(["main: server is listening", "", "\x00\x01 buffer size = MiB"], (0,)) == {}
    assert not out_of_memory([])


@pytest.mark.parametrize(
    "line",
    [
        # Debian's llama-server on a processor, with a context that no machine has memory for.
        "0.46.338.144 E ggml_aligned_malloc: insufficient memory (attempted to allocate"
        " 117187.50 MB)",
        "0.46.338.318 E ggml_backend_buft_alloc_buffer_n_default: failed to allocate CPU buffer of"
        " size 122880000000",
        "0.46.746.934 E llama_init_from_model: failed to initialize the context: failed to allocate"
        " buffer for kv cache",
        # Reported of cards.
        "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 1536.00 MiB on device 0: cudaMalloc"
        " failed: out of memory",
        "ggml_gallocr_reserve_n: failed to allocate CUDA0 buffer of size 1610612736",
        "llama_model_load: error loading model: unable to allocate CUDA1 buffer",
        "CUDA error: out of memory",
        # vLLM.
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.32 GiB. GPU 0 has a total"
        " capacity of 23.99 GiB of which 1.04 GiB is free.",
        "ValueError: No available memory for the cache blocks. Try increasing"
        " `gpu_memory_utilization` when initializing the engine.",
        "ValueError: To serve at least one request with the models's max seq len (16384), (4.00 GiB"
        " KV cache is needed, which is larger than the available KV cache memory (2.38 GiB).",
        "ValueError: Free memory on device (20.1/23.99 GiB) on startup is less than desired GPU"
        " memory utilization (0.92, 22.07 GiB).",
    ],
)
def test_a_want_of_memory_is_recognised(line: str) -> None:
    log = read_log(["something before", line, "exiting due to model loading error"])
    assert log.out_of_memory
    assert log.reason == line


@pytest.mark.parametrize(
    "line",
    [
        "load_model: failed to load model, 'x.gguf'",
        "ggml_cuda_host_malloc: failed to allocate 136.02 MiB of pinned memory: out of memory",
        "quantized V cache requires flash attention; failed to create context with model",
        "address already in use",
    ],
)
def test_other_faults_are_not_taken_for_it(line: str) -> None:
    assert not out_of_memory([line])


def test_the_log_of_a_real_start_is_understood() -> None:
    code = f"""
import os, xllamacpp
p = xllamacpp.CommonParams()
p.model.path = {str(NANO)!r}
p.hostnames, p.port = ["127.0.0.1"], 0
p.n_ctx, p.n_parallel, p.kv_unified, p.cache_ram_mib = 4096, 2, True, 0
p.verbosity = 4
server = xllamacpp.Server(p)
os._exit(0)
"""
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=True
    )
    log = read_log((ended.stdout + ended.stderr).splitlines())
    whole = sum(log.buffers.values())
    # Weights of 10.77 MiB, 12 of keys and values, 11 of the computation.
    assert 33 < whole < 37
    assert log.by_device(()).keys() == {"ram"}
