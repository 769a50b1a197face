"""The folders that a stack mounts: Docker would make missing ones as root's."""

import os
from collections.abc import Mapping
from pathlib import Path

from cli.host.answers import located
from cli.supervise import seed
from contracts.errors import SettingsError


def make_folders(values: Mapping[str, str], state_dir: Path, uid: int, gid: int) -> list[str]:
    """Make what the values name and is missing, owned by `uid`; says what was made. A new
    workspace begins with the samples. Raises SettingsError that names the setting."""
    made: list[str] = []
    if values["VARIET_ROLE"] == "hands":
        workspace = located(values["WORKSPACE_DIR"])
        try:
            workspace.parent.mkdir(parents=True, exist_ok=True)
            if seed(workspace):
                made.append(f"{workspace}, with the samples")
                _give(workspace, uid, gid)
        except OSError as error:
            raise _cannot("WORKSPACE_DIR", workspace, error) from error
        wanted = {
            "MAPS_DIR": located(values.get("MAPS_DIR") or f"{workspace}/maps"),
            "LOGS_DIR": located(values.get("LOGS_DIR") or f"{workspace}/logs"),
            "STATE_DIR": state_dir / "undo",
        }
    else:
        hub = located(values["HF_HOME"])
        wanted = {"MODEL_STORE": located(values["MODEL_STORE"]), "HF_HOME": hub / "hub"}
    for name, folder in wanted.items():
        if not folder.is_dir():
            _make(name, folder, uid, gid)
            made.append(str(folder))
    return made


def _make(name: str, folder: Path, uid: int, gid: int) -> None:
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True)
        for path in missing:
            _own(path, uid, gid)
    except OSError as error:
        raise _cannot(name, folder, error) from error


def _give(folder: Path, uid: int, gid: int) -> None:
    for path in (folder, *folder.rglob("*")):
        _own(path, uid, gid)


def _own(path: Path, uid: int, gid: int) -> None:
    """Only root can give a folder away; for others it is theirs already. The containers read it as
    members of its group, whatever the umask was."""
    if os.geteuid() == 0:
        os.chown(path, uid, gid, follow_symlinks=False)
    if not path.is_symlink():
        path.chmod(path.stat().st_mode | (0o050 if path.is_dir() else 0o040))


def _cannot(name: str, folder: Path, error: OSError) -> SettingsError:
    return SettingsError(
        "no_folder",
        f"{name}={folder} cannot be made: {error.strerror or error}.",
        f"Make it yourself, or choose another {name}.",
    )
