"""Which engines a preset makes, and which of them a request's `model` means."""

from dataclasses import replace

import pytest

from contracts.errors import NotFound
from contracts.manifest import Manifest, ModelSource
from contracts.preset import HostPreset
from models.manifest import load_manifest, load_preset, preset_names
from services.gateway.catalogue import Catalogue, catalogue
from tests.services.gateway.entries import entry

MANIFEST = Manifest(
    models=(
        entry("small", long_context="large"),
        entry("large", context=8_192),
        entry("words", kind="embed", dimension=8),
        entry("kinds", kind="classify"),
        entry(
            "awq",
            engine="vllm",
            source=ModelSource(url="hf:some/awq@0123456789"),
            weights_mib=10,
        ),
    )
)


def preset(**more: object) -> HostPreset:
    fields: dict[str, object] = {
        "about": "A machine of these tests.",
        "tiers": {"fast": "small", "balanced": "large", "deep": "large"},
        "embed": "words",
        "classify": "kinds",
        "aliases": {"default": "small", "clever": "large"},
    }
    return HostPreset.model_validate({**fields, **more})


@pytest.fixture
def known() -> Catalogue:
    return catalogue(preset(), MANIFEST, "balanced")


def test_tiers_that_serve_a_model_alike_share_one_engine(known: Catalogue) -> None:
    assert list(known.engines) == ["small", "large", "words", "kinds"]
    assert known.engines["large"].tiers == ("balanced", "deep")


def test_tiers_that_serve_a_model_differently_have_an_engine_each() -> None:
    tiers = {"fast": "small", "balanced": "large", "deep": {"model": "large", "context": 16_384}}
    known = catalogue(preset(tiers=tiers), MANIFEST, "deep")
    assert {"large@balanced", "large@deep"} <= set(known.engines)
    assert known.resolve("deep").context == 16_384
    assert known.resolve("large").name == "large@balanced"
    assert known.default == "large@deep"


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("fast", "small"),
        ("deep", "large"),
        ("clever", "large"),
        ("small", "small"),
        ("default", "large"),
        ("", "large"),
        (None, "large"),
    ],
)
def test_a_tier_an_alias_an_id_or_nothing_leads_to_an_engine(
    known: Catalogue, asked: str | None, found: str
) -> None:
    assert known.resolve(asked).name == found


def test_without_a_name_a_route_takes_the_engine_of_its_kind(known: Catalogue) -> None:
    assert known.resolve(None, ("embed",)).name == "words"
    assert known.resolve("default", ("embed",)).name == "words"


def test_a_repository_is_a_name_too() -> None:
    known = catalogue(
        preset(tiers={"fast": "awq", "balanced": "large", "deep": "large"}), MANIFEST, "fast"
    )
    assert known.resolve("some/awq").name == "awq"


def test_an_unknown_name_or_a_wrong_kind_is_refused_with_the_names_there_are(
    known: Catalogue,
) -> None:
    with pytest.raises(NotFound, match=r"model='gpt-5'") as wrong:
        known.resolve("gpt-5")
    assert "balanced, clever, deep, default, fast, large, small" in wrong.value.remedy
    with pytest.raises(NotFound) as other:
        known.resolve("words")
    assert "words" not in other.value.remedy
    with pytest.raises(NotFound, match="names no model"):
        known.resolve(None, ("rerank",))


def test_what_embeds_stays_and_what_classifies_comes_when_it_is_asked(known: Catalogue) -> None:
    assert known.engines["words"].pinned
    assert known.engines["words"].preload
    assert not known.engines["kinds"].pinned
    assert known.resolve("kinds", ("chat", "classify")).name == "kinds"


def test_a_longer_engine_is_one_with_a_larger_window(known: Catalogue) -> None:
    longer = known.longer(known.engines["small"])
    assert longer is not None
    assert longer.name == "large"
    assert known.longer(known.engines["large"]) is None


def test_concurrency_is_what_the_flags_say() -> None:
    tiers = {
        "fast": {"model": "small", "flags": ["--parallel", "3"]},
        "balanced": {"model": "awq", "flags": ["--max-num-seqs", "8"]},
        "deep": "large",
    }
    known = catalogue(preset(tiers=tiers), MANIFEST, "fast")
    assert [known.resolve(tier).concurrency for tier in ("fast", "balanced", "deep")] == [3, 8, 1]
    assert known.resolve("fast").names[0] == "small"


def test_a_fingerprint_changes_with_what_an_engine_is_started_with_only(known: Catalogue) -> None:
    spec = known.engines["large"]
    assert replace(spec, pinned=True, ttl_s=5.0).fingerprint == spec.fingerprint
    assert replace(spec, context=spec.context * 2).fingerprint != spec.fingerprint
    assert replace(spec, flags=("--parallel", "2")).fingerprint != spec.fingerprint


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_of_the_repository_makes_engines(name: str) -> None:
    manifest = load_manifest()
    known = catalogue(load_preset(name, manifest=manifest), manifest, "balanced")
    for tier in ("fast", "balanced", "deep"):
        assert tier in known.resolve(tier).tiers
    assert known.resolve(None, ("embed",)).entry.kind == "embed"
