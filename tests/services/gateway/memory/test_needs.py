from pathlib import Path

import pytest

from contracts.deployment import Deployment
from contracts.gateway_settings import GatewaySettings
from contracts.manifest import KvShape
from contracts.settings import REPOSITORY
from models.manifest import load_manifest, load_preset, preset_names
from services.gateway.catalogue import catalogue
from services.gateway.memory.devices import Devices
from services.gateway.memory.learned import Learned
from services.gateway.memory.needs import (
    asleep_needs,
    launch_of,
    model_header,
    needs,
    reduced_context,
)
from tests.models.gguf.files import Q8_0, Written, write_gguf
from tests.services.gateway.memory.engines import (
    ToldReadings,
    entry,
    no_cards,
    spec,
    two_cards,
)

NANO = REPOSITORY / "models/nano/nano.gguf"
SHAPE = KvShape(layers=32, heads=8, head_dim=128, source="x")
VLLM = entry("vllm", weights=18_600, ram_mib=8_192, url="hf:a/b")


def model(folder: Path) -> Path:
    """32 layers of 100 MiB, an input and an output of 170, 8 key heads of 128."""
    values: dict[str, Written] = {
        "general.architecture": "llama",
        "llama.block_count": 32,
        "llama.embedding_length": 4_096,
        "llama.feed_forward_length": 11_008,
        "llama.attention.head_count": 32,
        "llama.attention.head_count_kv": 8,
    }
    shapes = {
        f"blk.{layer}.ffn_up.weight": ((4_096, 24_094), Q8_0) for layer in range(32)
    } | dict.fromkeys(("token_embd.weight", "output.weight"), ((4096, 40960), Q8_0))
    return write_gguf(folder / "m.gguf", values, shapes)


def test_a_file_that_is_here_is_reckoned_from_its_header(tmp_path: Path) -> None:
    engine = spec(None, "--n-gpu-layers", "all", "--cache-ram", "1024", cards=(1, 0))
    taken = needs(engine, two_cards(), 8_192, model(tmp_path), None)
    # 16 layers of 100 MiB, half of 1,024 MiB of keys and values, 500 of buffers, 400 of CUDA; the
    # output is on the engine's second card.
    assert taken["card1"] == pytest.approx(17 * 100 + 17 * 32 + 900, abs=10)
    assert taken["card0"] == pytest.approx(15 * 100 + 15 * 32 + 170 + 900, abs=10)
    assert 170 + 1_024 + 600 < taken["ram"] < 170 + 1_024 + 700


def test_slots_share_the_context(tmp_path: Path) -> None:
    alone = spec(None, "--parallel", "4")
    assert launch_of(alone, 8_192).context == 2_048
    together = spec(None, "--parallel", "4", "--kv-unified")
    assert launch_of(together, 8_192).context == 8_192
    path = model(tmp_path)
    assert (
        needs(alone, two_cards(), 8_192, path, None)["card0"]
        == (needs(together, two_cards(), 8_192, path, None)["card0"])
    )


def test_models_that_embed_are_worked_through_in_one_batch_and_keep_no_prompts() -> None:
    launch = launch_of(spec(entry(kind="embed"), cards=()), 8_192)
    assert (launch.embeddings, launch.ubatch, launch.gpu_layers) == (True, 2_048, 0)
    assert launch_of(spec(entry(kind="rerank")), 512).ubatch == 512
    chat = launch_of(spec(), 8_192)
    assert (chat.embeddings, chat.ubatch) == (False, 512)


def test_the_demo_model_takes_some_megabytes_of_main_memory_and_its_cache() -> None:
    engine = spec(None, "--cache-ram", "64", cards=())
    taken = needs(engine, no_cards(), 2_048, NANO, None)
    # 11 MiB of weights, 6 of keys and values, 9 of the computation.
    assert taken == {"ram": 100 + 64 + 26}
    assert needs(spec(cards=()), no_cards(), 2_048, NANO, None)["ram"] > 8_192


def test_a_file_that_is_not_here_is_reckoned_from_the_manifest(tmp_path: Path) -> None:
    flags = ("--cache-ram", "4096")
    engine = spec(entry(kv=SHAPE), *flags, kv_cache="q8_0", ram_weights_mib=2_000)
    for absent in (None, tmp_path / "absent.gguf"):
        # (10,000 - 2,000 of weights + 544 of keys and values) over two cards, 900 of buffers.
        assert needs(engine, two_cards(), 8_192, absent, None) == {
            "card0": 5_172,
            "card1": 5_172,
            "ram": 4_096 + 600 + 2_000,
        }
    whole = needs(spec(entry(), *flags), two_cards(), 8_192, None, None)
    assert whole == {"card0": 7_000, "card1": 7_000, "ram": 4_696}
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(b"GGUF" + bytes(3))
    assert needs(spec(entry(), *flags), two_cards(), 8_192, damaged, None) == whole


def test_engines_on_the_processor_and_other_engines_take_what_the_manifest_says() -> None:
    engine = spec(entry(vram_mib=0), "--cache-ram", "512", cards=())
    assert needs(engine, no_cards(), 8_192, None, None) == {"ram": 2_512}
    embeds = entry("tei", "embed", url="hf:a/b", vram_mib=700, ram_mib=600)
    assert needs(spec(embeds, cards=(1,)), two_cards(), 512, None, None) == {
        "card1": 700,
        "ram": 600,
    }
    assert needs(spec(embeds, cards=()), no_cards(), 512, None, None) == {"ram": 600}


def test_vllm_takes_its_share_of_each_of_its_cards() -> None:
    preset = two_cards(gpu_mem_util=0.92)
    assert needs(spec(VLLM, cards=(0, 1)), preset, 8_192, None, None) == {
        "card0": 11_305,
        "card1": 11_305,
        "ram": 8_192,
    }
    half = spec(VLLM, "--gpu-memory-utilization", "0.5", cards=(1,))
    assert needs(half, preset, 8_192, None, None) == {"card1": 6_144, "ram": 8_192}


def test_what_was_seen_counts_where_it_is_more(tmp_path: Path) -> None:
    learned = Learned(tmp_path / "learned.json")
    engine = spec(entry(), "--cache-ram", "0")
    learned.note(engine, 8_192, {"card0": 9_000, "card1": 100})
    taken = needs(engine, two_cards(), 8_192, None, learned)
    assert (taken["card0"], taken["card1"]) == (9_000, 7_000)
    assert needs(engine, two_cards(), 4_096, None, learned)["card0"] == 7_000


def test_what_llama_cpp_itself_reckons_counts_instead_of_the_prediction() -> None:
    engine = spec(entry(), "--cache-ram", "0")
    taken = needs(engine, two_cards(), 8_192, None, None, {"card0": 5_500})
    assert (taken["card0"], taken["card1"]) == (5_500, 7_000)


def test_a_sleeping_engine_keeps_its_weights_in_main_memory_or_nothing(tmp_path: Path) -> None:
    assert asleep_needs(spec()) is None
    assert asleep_needs(spec(VLLM)) is None
    first = asleep_needs(spec(VLLM, cards=(0, 1), sleep=1))
    assert first == {"card0": 1_024, "card1": 1_024, "ram": 8_192 + 18_600}
    second = spec(VLLM, cards=(1,), sleep=2)
    assert asleep_needs(second) == {"card1": 1_024, "ram": 8_192}
    learned = Learned(tmp_path / "learned.json")
    learned.note_asleep(second, {"card1": 2_400})
    assert asleep_needs(second, learned) == {"card1": 2_400, "ram": 8_192}


def test_a_projector_beside_the_model_counts(tmp_path: Path) -> None:
    path = model(tmp_path)
    with (tmp_path / "mmproj.gguf").open("wb") as file:
        file.truncate(600 * 2**20)
    plain = needs(spec(cards=(0,)), two_cards(), 8_192, path, None)["card0"]
    seeing = spec(None, "--mmproj", "/models/m/mmproj.gguf", cards=(0,))
    assert needs(seeing, two_cards(), 8_192, path, None)["card0"] == plain + 600 + 300
    (tmp_path / "mmproj.gguf").unlink()
    assert needs(seeing, two_cards(), 8_192, path, None)["card0"] == plain + 1_024 + 300


def test_a_header_is_read_again_when_its_file_has_changed(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", {"general.architecture": "one"})
    first = model_header(path)
    assert model_header(path) is first
    write_gguf(path, {"general.architecture": "another"})
    second = model_header(path)
    assert second is not None
    assert second.architecture == "another"


def test_the_second_attempt_takes_what_fits_of_half_the_context(tmp_path: Path) -> None:
    path = model(tmp_path)
    engine = spec(None, "--cache-ram", "0", cards=(0,), context=65_536)
    preset = two_cards()
    plenty = {"card0": 100_000, "ram": 100_000}
    assert reduced_context(engine, preset, path, plenty) == 32_768
    # 4,096 tokens are 512 MiB of keys and values and 4 of the mask.
    room = needs(engine, preset, 24_576, path, None)["card0"]
    found = reduced_context(engine, preset, path, {"card0": room, "ram": 100_000})
    assert found == 24_576
    assert reduced_context(engine, preset, path, {"card0": room - 1, "ram": 100_000}) == 23_552
    assert reduced_context(engine, preset, path, {"card0": 10, "ram": 10}) == 16_384


@pytest.mark.parametrize(
    ("context", "expected"), [(8_192, 2_048), (4_096, 2_048), (2_048, 1_024), (512, 256)]
)
def test_the_second_attempt_never_takes_less_than_serves(context: int, expected: int) -> None:
    engine = spec(entry(vram_mib=0), cards=(), context=context)
    assert reduced_context(engine, no_cards(), None, {"ram": 1}) == expected


@pytest.mark.parametrize("name", preset_names())
def test_every_engine_of_every_preset_fits_its_own_budget(name: str) -> None:
    """The same sums as of models/budget.py, before the files are here."""
    preset = load_preset(name)
    devices = Devices(GatewaySettings(), preset, Deployment(), ToldReadings())
    budget = devices.budget()
    engines = catalogue(preset, load_manifest(), "balanced").engines.values()
    beside: dict[str, int] = {}
    for engine in engines:
        if engine.pinned:
            for device, mib in needs(engine, preset, engine.context, None, None).items():
                beside[device] = beside.get(device, 0) + mib
    for engine in engines:
        taken = needs(engine, preset, engine.context, None, None)
        held = {} if engine.pinned else beside
        for device, mib in taken.items():
            assert mib + held.get(device, 0) <= budget[device], (engine.name, device)
