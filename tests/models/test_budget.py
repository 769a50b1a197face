from pathlib import Path

import pytest

from contracts.errors import SettingsError
from contracts.manifest import KvShape
from contracts.preset import HostPreset
from models.budget import budget
from models.flags import engine_flags
from models.manifest import HOSTS, load_manifest, load_preset, preset_names


def copy(folder: Path, name: str, old: str, new: str) -> None:
    text = (HOSTS / f"{name}.yaml").read_text("utf-8")
    assert old in text
    (folder / f"{name}.yaml").write_text(text.replace(old, new))


def test_keys_and_values_are_reckoned_from_the_shape() -> None:
    shape = KvShape(layers=64, heads=8, head_dim=128, source="x")
    assert shape.mib(16_384, 2) == 4_096
    assert shape.mib(16_384, 1) == 2_048
    window = KvShape(layers=1, window_layers=1, window=100, heads=1, head_dim=2**18, source="x")
    assert window.mib(1_000, 1) == (1_000 + 100) / 2


@pytest.mark.parametrize("name", preset_names())
def test_every_tier_of_every_preset_fits_its_cards(name: str) -> None:
    preset = load_preset(name)
    for tier in preset.tiers:
        worked_out = budget(preset, tier, load_manifest())
        assert worked_out.problem == ""
        assert len(worked_out.cards) == len(preset.cards)


def test_a_preset_that_exceeds_a_card_is_refused_with_the_figures(tmp_path: Path) -> None:
    copy(tmp_path, "24gb", "mib: 24564", "mib: 16376")
    with pytest.raises(
        SettingsError, match=r"tiers\.balanced: qwen3\.6-35b-a3b with 131072 tokens"
    ):
        load_preset("24gb", tmp_path)


def test_keys_and_values_of_16_bits_do_not_fit_beside_the_32b_model(tmp_path: Path) -> None:
    copy(tmp_path, "4090+2070", "kv_cache: fp8", "kv_cache: f16")
    with pytest.raises(SettingsError, match=r"leaves -1598 MiB of card 0 \(RTX 4090, 24564 MiB\)"):
        load_preset("4090+2070", tmp_path)


def test_a_smaller_share_for_vllm_leaves_too_little(tmp_path: Path) -> None:
    copy(tmp_path, "4090+2070", "gpu_mem_util: 0.92", "gpu_mem_util: 0.9")
    with pytest.raises(SettingsError, match="leaves -41 MiB"):
        load_preset("4090+2070", tmp_path)


def test_the_embeddings_card_counts_what_it_holds() -> None:
    cards = budget(load_preset("4090+2070"), "deep", load_manifest()).cards
    assert cards[0].others == 0
    assert (cards[1].weights, cards[1].others) == (0, 1_800 + 2_400)


def test_the_number_format_of_the_budget_is_that_of_the_flags() -> None:
    for name in preset_names():
        preset = load_preset(name)
        for served in preset.tiers.values():
            flags = flags_of(preset, served.model)
            assert (served.kv_cache != "f16") == (served.kv_cache in flags), name


def test_a_pinned_repository_is_served_at_its_revision() -> None:
    flags = flags_of(load_preset("4090+2070"), "qwen2.5-32b-awq")
    assert flags[flags.index("--revision") + 1] == "5c7cb76a268fc6cfbb9c4777eb24ba6e27f9ee6c"


def flags_of(preset: HostPreset, model_id: str) -> tuple[str, ...]:
    entry = load_manifest().get(model_id)
    assert entry is not None
    served = next(one for one in preset.tiers.values() if one.model == model_id)
    return engine_flags(preset, served, entry)
