"""Reads the catalogue and the host presets, and says what is wrong with them by file and key."""

from functools import cache
from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import ValidationError

from contracts.base import Message
from contracts.errors import SettingsError
from contracts.manifest import Manifest
from contracts.preset import TIERS, HostPreset
from models.budget import budget

HERE = Path(__file__).parent
MANIFEST = HERE / "manifest.yaml"
HOSTS = HERE / "hosts"

Kind = TypeVar("Kind", bound=Message)


@cache
def load_manifest(path: Path = MANIFEST) -> Manifest:
    """The catalogue at `path`. Raises SettingsError that names file, key and value."""
    return _load(path, Manifest)


def preset_names(folder: Path = HOSTS) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.yaml"))


def load_preset(name: str, folder: Path = HOSTS, manifest: Manifest | None = None) -> HostPreset:
    """The preset `name`: its ids are known and of the right kind, its tiers fit its cards."""
    path = folder / f"{name}.yaml"
    if name not in preset_names(folder):
        raise SettingsError(
            "no_preset",
            f"There is no host preset {name!r}.",
            f"Choose one of: {', '.join(preset_names(folder))}.",
        )
    preset = _load(path, HostPreset)
    known = manifest or load_manifest()
    for key, kind, model_id in preset.roles():
        entry = known.get(model_id)
        if entry is None:
            raise _wrong(path, f"{key}: {model_id} is not in the manifest")
        if entry.kind != kind:
            raise _wrong(path, f"{key}: {model_id} is of kind {entry.kind}, not {kind}")
    for alias, model_id in preset.aliases.items():
        if known.get(model_id) is None:
            raise _wrong(path, f"aliases.{alias}: {model_id} is not in the manifest")
    _check_memory(path, preset, known)
    return preset


def _check_memory(path: Path, preset: HostPreset, manifest: Manifest) -> None:
    for tier in TIERS:
        try:
            problem = budget(preset, tier, manifest).problem
        except ValueError as error:
            problem = str(error)
        if problem:
            raise _wrong(path, problem)


def _load(path: Path, kind: type[Kind]) -> Kind:
    try:
        return kind.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise _wrong(path, error.strerror or "cannot be read") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise _wrong(path, f"not YAML: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        raise _wrong(path, "; ".join(_problem(problem) for problem in error.errors())) from error


def _problem(problem: object) -> str:
    assert isinstance(problem, dict)
    key = ".".join(str(part) for part in problem["loc"])
    text = str(problem["msg"]).removeprefix("Value error, ")
    value = problem["input"]
    shown = f" ({value!r})" if isinstance(value, str | int | float) else ""
    return f"{key}{shown}: {text}" if key else text


def _wrong(path: Path, problem: str) -> SettingsError:
    return SettingsError("bad_manifest", f"{path}: {problem}.", "Correct that file.")
