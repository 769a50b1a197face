"""The images of services/images.yaml, and which of them a host's engines are."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from contracts.broker import EngineImage
from contracts.errors import SettingsError
from contracts.settings_reading import REPOSITORY

PAGE = REPOSITORY / "services" / "images.yaml"
# Entries of the page, where no variant is named.
DEFAULTS: Mapping[EngineImage, str] = {
    "llamacpp": "llamacpp-cpu",
    "vllm": "vllm-cuda",
    "tei": "tei-cpu",
}
# As Compose writes that a setting comes first: ${NAME:-image}.
SET = re.compile(r"\$\{[A-Z_]+:-(.*)\}")


@dataclass(frozen=True)
class ListedImage:
    """`cards`: it runs on graphics cards, and reserves them."""

    name: str
    cards: bool


@cache
def listed_images(page: Path = PAGE) -> Mapping[str, ListedImage]:
    """All entries by name. Raises SettingsError when the page cannot be read."""
    try:
        services = yaml.safe_load(page.read_text("utf-8"))["services"]
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError) as error:
        raise SettingsError(
            "bad_images_page", f"{page} is no list of images: {error}.", "Restore that file."
        ) from error
    return {
        name: ListedImage(SET.sub(r"\1", entry["image"]), "deploy" in entry)
        for name, entry in services.items()
    }


def engine_image(
    kind: EngineImage, variant: str | None = None, named: str | None = None, page: Path = PAGE
) -> ListedImage:
    """The image of an engine: the one that is `named`, else the entry `variant`, else the default
    entry. A named image runs on cards if the entry does. Raises SettingsError for an entry that is
    not there, or is another engine's."""
    images = listed_images(page)
    entry = variant or DEFAULTS[kind]
    found = images.get(entry) if entry.startswith(f"{kind}-") else None
    if found is None:
        known = ", ".join(sorted(name for name in images if name.startswith(f"{kind}-")))
        raise SettingsError(
            "unknown_image",
            f"{kind.upper()}_VARIANT={entry} is no such entry of services/images.yaml.",
            f"Take one of: {known}.",
        )
    return ListedImage(named, found.cards) if named else found
