"""`variet backup` and `variet restore`."""

import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from cli import __version__
from cli.backup import state, unfinished
from cli.backup.archive import Reader, Writer
from cli.backup.manifest import FORMAT, Manifest, Part
from cli.backup.stack import Stack
from cli.compose import Compose
from cli.show import line
from cli.text import size
from contracts.deployment import Role, load_deployment
from contracts.errors import Conflict, StoreError
from contracts.settings import Settings, load_settings
from contracts.settings_reading import env_file
from orchestrator.store.postgres.schema import SCHEMA_VERSION as POSTGRES_VERSION

ENV = "env"
KNOWN = {**state.KNOWN, "postgres": POSTGRES_VERSION}


def backup(path: Path | None, secrets: bool, console: Console) -> None:
    unfinished.refuse()
    began = time.monotonic()
    settings, role = load_settings(), load_deployment().variet_role
    path = (path or _default_name()).absolute()
    folder = settings.state_dir
    if folder.resolve() in (path.parent.resolve(), *path.parent.resolve().parents):
        raise Conflict(
            "backup_inside", f"{path} lies in STATE_DIR={folder}.", "Name a file outside of it."
        )
    stack = _stack(role, settings, console)
    left_out = ["models, logs and what engines fetched: they can be had again"]
    schemas = state.schemas(folder)
    with Writer(path) as writer:
        if secrets and env_file().is_file():
            with writer.part(ENV, "settings", env_file().name) as sink:
                sink.write(_read(env_file()))
        elif not secrets:
            left_out.append(f"{env_file().name}: restoring on a new host needs its secrets")
        if folder.is_dir():
            _tell(console, f"state {folder}")
            if state.save(writer, folder):
                _tell(console, "copied while a stack works on it")
        if stack:
            schemas |= stack.save(writer)
            left_out += stack.left_out
        left_out += _elsewhere(settings, stack is not None)
        writer.finish(
            Manifest(
                format=FORMAT,
                variet=__version__,
                created=datetime.now(UTC).isoformat(timespec="seconds"),
                role=role or "embedded",
                parts=writer.parts,
                schemas=schemas,
                left_out=left_out,
            )
        )
    took = time.monotonic() - began
    line(console, f"{path}  {size(path.stat().st_size)}, {took:.1f} s", "bold green")
    for part in writer.parts:
        line(console, f"  {part.name:<32} {size(part.bytes):>9}")
    for text in left_out:
        line(console, f"  not in it: {text}", "dim")
    if any(part.name == ENV for part in writer.parts):
        line(console, "It holds secrets: its mode is 0600; keep it so, also where you copy it.")


def restore(path: Path, console: Console) -> None:
    began = time.monotonic()
    with Reader(path.absolute()) as reader:
        manifest = reader.manifest
        _tell(console, f"{path} is whole: {len(manifest.parts)} parts, made {manifest.created}")
        _refuse_newer(reader)
        fresh = _put_back_settings(reader)
        try:
            _put_back(reader, console)
        except BaseException:  # boundary: what was not restored as a whole leaves no settings, too
            if fresh:
                env_file().unlink(missing_ok=True)
            raise
        if not fresh:
            _compare_settings(reader, console)
    line(console, f"Restored in {time.monotonic() - began:.1f} s.", "bold green")


def _put_back(reader: Reader, console: Console) -> None:
    manifest = reader.manifest
    role = load_deployment().variet_role
    if (role or "embedded") != manifest.role:
        raise Conflict(
            "other_role",
            f"{reader.path} is of a host with the role {manifest.role}; this one is"
            f" {role or 'embedded'}. Nothing was changed.",
            f"Use a backup of this host, or set VARIET_ROLE in {env_file().name}.",
        )
    parts = [part for part in manifest.parts if part.kind != "settings"]
    for part in parts:
        if part.kind in ("state", "volume"):
            state.check(reader, part)
    settings = load_settings()
    if stack := _stack(role, settings, console):
        stack.check(parts)
        stack.restore(reader, parts)
        return
    for part in parts:
        if part.kind != "state":
            raise Conflict(
                "no_stack",
                f"{reader.path} holds {part.name}, but a host with the role {manifest.role} has no"
                " stack for it. Nothing was changed.",
                "Use another backup.",
            )
    for part in parts:
        _tell(console, f"state {settings.state_dir}")
        _put_back_state(reader, part, settings.state_dir)


def _put_back_state(reader: Reader, part: Part, folder: Path) -> None:
    again = unfinished.begin(reader.path)
    try:
        state.restore(reader, part, folder)
    except BaseException:  # boundary: whatever stopped it, it may have been undone
        if not (again or state.is_torn(folder)):
            unfinished.end()
        raise
    unfinished.end()
    state.settle(folder)


def _refuse_newer(reader: Reader) -> None:
    for name, version in reader.manifest.schemas.items():
        known = KNOWN.get(name)
        if known is None or version > known:
            raise Conflict(
                "backup_newer",
                f"{reader.path} holds {name} with schema version {version}, this program knows"
                f" {known or 'no such store'}. Nothing was changed.",
                "Update Variet first: git pull, make update.",
            )


def _put_back_settings(reader: Reader) -> bool:
    """Write `.env` if there is none; whether it was written. One that is there is this host's."""
    part = _settings_part(reader)
    path = env_file()
    if part is None or path.exists():
        return False
    with reader.open(part) as content:
        try:
            path.touch(mode=0o600, exist_ok=False)
            path.write_bytes(content.read())
        except OSError as error:
            path.unlink(missing_ok=True)
            raise StoreError(
                "settings_unwritable",
                f"{path} cannot be written: {error.strerror}. Nothing was changed.",
                "Make its folder writable.",
            ) from error
    return True


def _compare_settings(reader: Reader, console: Console) -> None:
    part = _settings_part(reader)
    if part is None or not env_file().is_file():
        return
    with reader.open(part) as content:
        if content.read() != _read(env_file()):
            name = env_file().name
            line(
                console,
                f"{name} was kept; the backup's differs. Langfuse's keys work only with the salt"
                f" they were made with. To have the backup's: tar xf {reader.path} {ENV}",
                "yellow",
            )


def _settings_part(reader: Reader) -> Part | None:
    return next((part for part in reader.manifest.parts if part.kind == "settings"), None)


def _stack(role: Role | None, settings: Settings, console: Console) -> Stack | None:
    """The containers that keep something. The brain's keep nothing that cannot be had again."""
    if role != "hands":
        return None
    return Stack(Compose(), settings.state_dir, lambda text: _tell(console, text))


def _elsewhere(settings: Settings, stack: bool) -> list[str]:
    """What this host uses, but keeps outside of what is saved."""
    found = []
    inside = settings.state_dir.resolve()
    if not settings.workspace.resolve().is_relative_to(inside):
        found.append(f"WORKSPACE_DIR={settings.workspace}: your own files")
    if not stack and settings.database_url:
        found.append("the database of DATABASE_URL: use pg_dump")
    if not stack and settings.qdrant_url:
        found.append(f"the index at QDRANT_URL={settings.qdrant_url}: use its snapshots")
    return found


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StoreError(
            "settings_unreadable", f"{path}: {error.strerror}.", "Make it readable."
        ) from error


def _default_name() -> Path:
    return Path(f"variet-backup-{datetime.now(UTC):%Y%m%d-%H%M%S}.tar")


def _tell(console: Console, text: str) -> None:
    with suppress(BrokenPipeError):
        line(console, f"· {text}", "dim")
