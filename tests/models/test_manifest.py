from pathlib import Path

import pytest

from contracts.errors import SettingsError
from contracts.manifest import FILE, Manifest, ModelSource
from contracts.settings import REPOSITORY
from models.manifest import load_manifest, load_preset, preset_names
from models.store import file_sha256

TOOLS = (
    "list_maps",
    "get_map",
    "search_logs",
    "file_operations",
    "apply_patch",
    "run_tests",
    "search_docs",
)


@pytest.fixture
def manifest() -> Manifest:
    return load_manifest()


def test_every_preset_names_models_of_the_right_kind() -> None:
    assert set(preset_names()) == {"2x3060", "24gb", "4060+4080", "4090+2070", "cpu", "mac"}
    for name in preset_names():
        preset = load_preset(name)
        assert set(preset.tiers) == {"fast", "balanced", "deep"}
        assert preset.classify
        assert preset.lower_first


def test_every_file_on_the_web_is_pinned_by_revision_hash_and_size(manifest: Manifest) -> None:
    for entry in manifest.models:
        if entry.source.is_web:
            assert entry.source.sha256, entry.id
            assert entry.source.bytes, entry.id
            assert "/resolve/main/" not in entry.source.url, entry.id


def test_files_of_the_repository_match_their_hash(manifest: Manifest) -> None:
    for entry in manifest.models:
        path = REPOSITORY / entry.source.url.removeprefix(FILE)
        if entry.source.url.startswith(FILE) and path.is_file():
            assert entry.source.bytes == path.stat().st_size, (
                f"python -m models.store seal {entry.id}"
            )
            assert entry.source.sha256 == file_sha256(path)


def test_the_demo_model_is_offered_the_tools_that_it_was_evaluated_with(manifest: Manifest) -> None:
    nano = manifest.get("nano")
    assert nano is not None
    assert nano.tools_evaluated == TOOLS
    assert nano.context == 2_048


def test_there_are_small_models_for_a_cpu(manifest: Manifest) -> None:
    small = [
        entry
        for entry in manifest.models
        if entry.kind == "chat" and entry.vram_mib == 0 and entry.id != "nano"
    ]
    assert small
    assert all(entry.engine == "llama.cpp" and entry.ram_mib < 8_192 for entry in small)


ENTRY = """\
models:
  - id: {id}
    about: A test.
    kind: {kind}
    engine: llama.cpp
    source: {{url: "{url}", sha256: {sha256}}}
    licence: MIT
    context: 512
    vram_mib: 0
    ram_mib: 1
"""
GOOD = {"id": "a", "kind": "chat", "url": "https://hub.example/a.gguf", "sha256": "null"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "talk"}, r"models\.0\.kind \('talk'\)"),
        ({"id": "A B"}, r"models\.0\.id \('A B'\)"),
        ({"sha256": "abc"}, r"models\.0\.source\.sha256 \('abc'\)"),
        ({"url": "https://hub.example/"}, "has to end with the name of a file"),
        ({"url": "https://hub.example/a/.."}, "has to end with the name of a file"),
        ({"url": "ftp://a"}, r"models\.0\.source\.url \('ftp://a'\): has to start with https"),
        ({"url": "file:/etc/passwd"}, "a path inside the repository"),
        ({"url": "hf:owner/name", "sha256": "f" * 64}, "only a single file"),
    ],
)
def test_a_wrong_manifest_names_file_key_and_value(
    tmp_path: Path, change: dict[str, str], message: str
) -> None:
    path = tmp_path / "manifest.yaml"
    path.write_text(ENTRY.format(**GOOD | change))
    with pytest.raises(SettingsError, match=message) as caught:
        load_manifest(path)
    assert str(path) in caught.value.message


def test_an_unknown_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "manifest.yaml"
    path.write_text(ENTRY.format(**GOOD) + "    vram: 1\n")
    with pytest.raises(SettingsError, match=r"models\.0\.vram"):
        load_manifest(path)


def test_an_id_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    text = ENTRY.format(**GOOD)
    path = tmp_path / "manifest.yaml"
    path.write_text(text + text.removeprefix("models:\n"))
    with pytest.raises(SettingsError, match="id a occurs more than once"):
        load_manifest(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"models: [", "not YAML"), (b"\xff\xfe\x00", "not YAML"), (None, "No such file")],
)
def test_an_unreadable_manifest_says_why(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    path = tmp_path / "manifest.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingsError, match=message):
        load_manifest(path)


PRESET = "about: x\ntiers: {fast: nano, balanced: nano, deep: nano}\nembed: all-minilm-l6-v2\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (PRESET.replace("deep: nano", "deep: none"), "tiers.deep: none is not in the manifest"),
        (
            PRESET.replace("embed: all-minilm-l6-v2", "embed: nano"),
            "nano is of kind chat, not embed",
        ),
        (PRESET.replace(", deep: nano", ""), "lacks deep"),
        (PRESET + "aliases: {a: none}\n", "aliases.a: none is not in the manifest"),
        (PRESET + "profiles: [rerank]\n", "the profile rerank needs a model"),
        (PRESET + "llm_cards: [0]\n", "card 0 is not among the 0 cards"),
        (
            PRESET.replace("fast: nano", "fast: {model: nano, context: 4096}"),
            "4096 tokens are more",
        ),
        (PRESET.replace("fast: nano", "fast: {model: nano, flags: [a b]}"), "one word"),
    ],
)
def test_a_wrong_preset_names_file_key_and_value(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(SettingsError, match=message) as caught:
        load_preset("mine", tmp_path)
    assert "mine.yaml" in caught.value.message


def test_an_unknown_preset_lists_the_known_ones() -> None:
    with pytest.raises(SettingsError, match=r"24gb, 2x3060, 4060\+4080, 4090\+2070, cpu, mac"):
        load_preset("mainframe")


def test_a_source_in_a_parent_folder_is_refused() -> None:
    with pytest.raises(ValueError, match="inside the repository"):
        ModelSource(url="file:../secret.gguf")
