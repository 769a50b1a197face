"""Figures marked as told by llama.cpp are those of `llama-fit-params --fit-print on` (Debian's
llama.cpp 0.7.0, build 11669, on a processor) for files of the same shapes."""

from collections.abc import Callable

import pytest

from contracts.settings import REPOSITORY
from models.gguf.cache import layer_caches
from models.gguf.estimate import MIB, Estimate, estimate, largest_that_fits
from models.gguf.header import Header, read_header
from models.gguf.launch import Launch, read_flags
from tests.models.gguf.shapes import (
    dense,
    header_of,
    hybrid_9b,
    hybrid_27b,
    hybrid_35b,
    named,
    windowed,
)

QUANTISED = ("--cache-type-k", "q8_0", "--cache-type-v", "q8_0")
GIB = 1_024


def on_cards(header: Header, *flags: str, context: int = 65_536, cards: int = 1) -> Estimate:
    launch = read_flags(Launch(context), (*QUANTISED, "--cache-ram", "0", *flags))
    return estimate(header, launch, [12_288] * cards)


@pytest.mark.parametrize(
    ("model", "context", "told_context", "told_compute"),
    [
        (dense, 8_192, 612, 329.85),
        (dense, 65_536, 4_896, 385.85),
        (dense, 262_144, 19_584, 577.85),
        (windowed, 8_192, 111, 429.71),
        (windowed, 65_536, 825, 485.71),
        (windowed, 262_144, 3_273, 677.71),
        (hybrid_35b, 8_192, 147, 513.29),
        (hybrid_35b, 65_536, 742, 569.29),
        (hybrid_35b, 262_144, 2_782, 761.29),
        (hybrid_9b, 8_192, 186, 533.29),
        (hybrid_9b, 262_144, 4_402, 781.29),
        (hybrid_27b, 65_536, 2_325, 599.29),
        (hybrid_27b, 262_144, 8_853, 791.29),
    ],
)
def test_a_processor_takes_what_llama_cpp_tells(
    model: Callable[[], Header], context: int, told_context: int, told_compute: float
) -> None:
    host = estimate(model(), read_flags(Launch(context), QUANTISED)).host
    assert told_context <= host.context < told_context + 1
    assert 0 <= host.compute - told_compute < 40


@pytest.mark.parametrize(
    ("model", "flags", "told"),
    [
        (windowed, (), 786),
        (windowed, ("--parallel", "2"), 804),
        (hybrid_35b, (), 702),
        (hybrid_35b, ("--parallel", "2"), 765),
    ],
)
def test_requests_side_by_side_take_what_llama_cpp_tells(
    model: Callable[[], Header], flags: tuple[str, ...], told: int
) -> None:
    context = 32_768 // (2 if flags else 1)
    host = estimate(model(), read_flags(Launch(context), flags)).host
    assert told <= host.context < told + 1


@pytest.mark.parametrize(("parallel", "told"), [(1, 814), (2, 988)])
def test_five_of_six_layers_of_gemma_3_attend_to_a_window(parallel: int, told: int) -> None:
    """Told by llama.cpp for 32,768 tokens altogether, of 16 bits."""
    values = named(
        "gemma3",
        block_count=34,
        embedding_length=2_560,
        attention__head_count=8,
        attention__head_count_kv=4,
        attention__key_length=256,
        attention__value_length=256,
        attention__sliding_window=1_024,
    )
    launch = Launch(32_768 // parallel, parallel=parallel)
    caches = layer_caches(header_of(values, {}), launch)
    assert sum(one.attention for one in caches) / MIB == told
    assert [one.windowed for one in caches[:7]] == [*[True] * 5, False, True]


def test_the_hybrids_take_what_their_users_report() -> None:
    """2.66 and 4.25 GiB of keys and values at 262,144 tokens of 8 bits, without the states."""
    for model, told in ((hybrid_35b, 2.66), (hybrid_9b, 4.25)):
        caches = layer_caches(model(), read_flags(Launch(262_144), QUANTISED))
        assert sum(one.attention for one in caches) / 2**30 == pytest.approx(told, abs=0.005)


def test_the_demo_model_takes_what_llama_server_logs() -> None:
    """llama-server 0.7.0, `-c 4096 -np 2 -kvu`: KV 12.00 MiB, RS 0.01, compute 11.02, weights 10.75
    in a buffer of its own and 1.00 of the file."""
    nano = read_header(REPOSITORY / "models/nano/nano.gguf")
    launch = read_flags(Launch(4_096), ("-np", "2", "-kvu", "--cache-ram", "512"))
    host = estimate(nano, launch).host
    assert host.context == pytest.approx(12.01, abs=0.01)
    assert host.compute == pytest.approx(11.02, abs=0.05)
    assert host.weights == pytest.approx(10.77, abs=0.01)
    assert 512 + 100 <= host.other < 512 + 110


def test_weights_stand_where_their_layers_are() -> None:
    header = dense()
    whole = sum(tensor.bytes for tensor in header.tensors) / MIB
    embedding = next(t.bytes for t in header.tensors if t.name == "token_embd.weight") / MIB
    one = on_cards(header)
    assert one.host.weights == pytest.approx(embedding)
    # The input is also the output: the card gets a copy of it.
    assert one.cards[0].weights == pytest.approx(whole)
    two = on_cards(header, "--tensor-split", "3,1", cards=2)
    assert two.cards[0].weights + two.cards[1].weights == pytest.approx(whole)
    assert two.cards[0].weights > 2 * two.cards[1].weights
    assert sum(card.context for card in two.cards) == pytest.approx(one.cards[0].context)
    none = on_cards(header, "--n-gpu-layers", "0")
    assert none.cards[0].mib == 0
    assert none.host.weights == pytest.approx(whole)
    half = on_cards(header, "--n-gpu-layers", "19")
    assert 0.4 * whole < half.cards[0].weights < 0.7 * whole
    assert half.cards[0].context == pytest.approx(one.cards[0].context / 2)


def test_a_split_by_tensor_halves_weights_and_keys() -> None:
    first, second = on_cards(hybrid_27b(), "--split-mode", "tensor", cards=2).cards
    assert first == second
    whole = on_cards(hybrid_27b()).cards[0]
    assert first.weights == pytest.approx(whole.weights / 2)
    assert first.context == pytest.approx(whole.context / 2)


def test_one_card_of_two_is_used_where_the_model_is_not_split() -> None:
    unsplit = on_cards(dense(), "--split-mode", "none", "--main-gpu", "1", cards=2)
    assert unsplit.cards[0].mib == 0
    assert unsplit.cards[1].weights == on_cards(dense()).cards[0].weights


@pytest.mark.parametrize(
    ("flags", "layers"),
    [
        (("--n-cpu-moe", "10"), 10),
        (("--cpu-moe",), 40),
        (("--override-tensor", r"blk\.[0-4]\.ffn_.*_exps=CPU"), 5),
    ],
)
def test_experts_in_main_memory_count_there(flags: tuple[str, ...], layers: int) -> None:
    header = hybrid_35b()
    expert = next(t.bytes for t in header.tensors if "_exps" in t.name) / MIB
    here, all_on_card = on_cards(header, *flags), on_cards(header)
    moved = 3 * layers * expert
    assert all_on_card.cards[0].weights - here.cards[0].weights == pytest.approx(moved)
    assert here.host.weights - all_on_card.host.weights == pytest.approx(moved)


def test_the_cache_of_prompts_counts_in_main_memory_as_llama_server_has_it_by_default() -> None:
    header = dense()
    default = estimate(header, Launch(8_192), [24_000]).host.other
    off = estimate(header, read_flags(Launch(8_192), ("--cache-ram", "0")), [24_000]).host.other
    assert default - off == 8_192
    embeds = estimate(header, read_flags(Launch(8_192), ("--embeddings",)), [24_000]).host.other
    assert embeds == off


def test_states_that_are_kept_to_go_back_to_count_in_main_memory() -> None:
    """llama-server keeps one for every 8,192 tokens of each request."""
    state = sum(one.state for one in layer_caches(hybrid_35b(), Launch(1))) / MIB
    kept = on_cards(hybrid_35b(), "--parallel", "2", "--kv-unified").host.other
    none = on_cards(hybrid_35b(), "--ctx-checkpoints", "0").host.other
    assert kept - none == pytest.approx(2 * (65_536 // 8_192 + 2) * state)
    few = on_cards(hybrid_35b(), "--ctx-checkpoints", "3").host.other
    assert few - none == pytest.approx(3 * state)


def test_several_cards_in_a_row_hold_their_inputs_four_times() -> None:
    # The mask of 262,144 tokens is 256 MiB.
    row = on_cards(dense(), context=262_144, cards=2).cards[0].compute
    assert 4 * 256 < row < 4 * 256 + 100
    for flags in (("--split-mode", "tensor"), ("--no-kv-offload",), ("--n-cpu-ffn", "1")):
        plain = on_cards(dense(), *flags, context=262_144, cards=2).cards[0].compute
        assert plain < 1_024


def test_experts_that_are_worked_on_from_main_memory_pass_through_the_card() -> None:
    largest = max(t.bytes for t in hybrid_35b().tensors if "_exps" in t.name) / MIB
    here = on_cards(hybrid_35b(), context=262_144).cards[0].compute
    there = on_cards(hybrid_35b(), "--cpu-moe", context=262_144).cards[0].compute
    assert there - here == pytest.approx(2 * largest)


def test_the_mask_is_of_all_requests_tokens() -> None:
    one = estimate(dense(), Launch(65_536)).host.compute
    two = estimate(dense(), Launch(65_536, parallel=2)).host.compute
    shared = estimate(dense(), Launch(65_536, parallel=2, unified=True)).host.compute
    assert two - one == pytest.approx(64)
    assert shared == one


def test_keys_and_values_may_stay_in_main_memory() -> None:
    there = on_cards(dense(), "--no-kv-offload")
    assert there.cards[0].context == 0
    assert there.host.context == on_cards(dense()).cards[0].context


def test_scores_count_where_flash_attention_is_off() -> None:
    with_it, without = on_cards(dense()), on_cards(dense(), "--flash-attn", "off")
    # 32 heads x 65,536 tokens x 512 rows of 4 bytes.
    assert with_it.cards[0].compute < 1_000
    assert without.cards[0].compute > 4_096


def test_a_projector_takes_its_place_on_the_first_card() -> None:
    launch = Launch(8_192)
    plain = estimate(dense(), launch, [12_288, 12_288])
    seeing = estimate(dense(), launch, [12_288, 12_288], mmproj_bytes=800 * MIB)
    assert seeing.cards[0].mib - plain.cards[0].mib == 1_100
    assert seeing.cards[1] == plain.cards[1]


def test_heads_per_layer_and_told_windows_are_taken_layer_by_layer() -> None:
    values = named(
        "unheard-of",
        block_count=4,
        embedding_length=64,
        attention__head_count=4,
        attention__head_count_kv=(2, 0, 1, 1),
        attention__key_length=32,
        attention__value_length=16,
        attention__sliding_window=100,
        attention__sliding_window_pattern=(False, False, False, True),
    )
    first, second, third, fourth = layer_caches(header_of(values, {}), Launch(4_096, ubatch=128))
    assert first.attention == 4_096 * 2 * (32 + 16) * 2
    assert second.attention == 0
    assert third.attention == first.attention / 2
    assert fourth.attention == 256 * (32 + 16) * 2
    shared = header_of(values | {"unheard-of.attention.shared_kv_layers": 2}, {})
    assert [one.attention > 0 for one in layer_caches(shared, Launch(256))] == [True, *[False] * 3]


def test_latent_attention_keeps_no_values() -> None:
    """llama.cpp told for this shape: K (f16) 288.00 MiB, V 0.00 MiB."""
    values = named(
        "deepseek2",
        block_count=8,
        embedding_length=2_048,
        attention__head_count=16,
        attention__head_count_kv=1,
        attention__key_length=576,
        attention__value_length=512,
        attention__key_length_mla=192,
        attention__value_length_mla=128,
    )
    caches = layer_caches(header_of(values, {}), Launch(32_768))
    assert sum(one.attention for one in caches) / MIB == 288


def test_embedding_models_keep_nothing() -> None:
    values = named("bert", block_count=12, embedding_length=384, attention__head_count=12)
    assert layer_caches(header_of(values, {}), Launch(512)) == ()


@pytest.mark.parametrize("cards", [0, 1, 2])
def test_any_header_can_be_reckoned_with(cards: int) -> None:
    odd: list[Header] = [
        Header({}, 0),
        header_of(named("x", block_count=2**40), {"blk.9.ffn_up.weight": ((1, 1), 0)}),
        header_of(named("x", block_count=2, attention__head_count_kv=()), {}),
        header_of(named("x", block_count=2, attention__head_count=(0, 0)), {"output": ((), 0)}),
        header_of(named("x", block_count="many"), {"token_embd.weight": ((3,), 0)}),
    ]
    for header in odd:
        for flags in (("-ot", "(=CPU"), ("-ts", "0,0"), ("-np", "x", "-ngl", "3"), ("-sm", "row")):
            result = estimate(header, read_flags(Launch(1_024), flags), [8_000] * cards)
            assert result.host.mib >= 0
            assert len(result.cards) == cards


def test_the_largest_number_that_fits_is_found() -> None:
    assert largest_that_fits(lambda n: n <= 10_500, 65_536, 2_048) == 10_240
    assert largest_that_fits(lambda n: True, 16_384, 2_048) == 16_384
    assert largest_that_fits(lambda n: False, 16_384, 2_048) == 2_048
