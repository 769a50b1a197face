"""The folders that may be indexed, and the names that their files have in citations."""

from pathlib import Path

from contracts.errors import BadRequest, Forbidden, NotFound


class Roots:
    """A file's source name is its path below its root, after the root's name: `samples/a.md`."""

    def __init__(self, folders: list[Path]) -> None:
        """Roots of the same name are told apart by their parents' names."""
        resolved = list(dict.fromkeys(folder.resolve() for folder in folders))
        self._names = {folder: _name(folder, resolved) for folder in resolved}

    def locate(self, path: str) -> Path:
        """The real path of a file or folder, given as an absolute path, a path below a root or a
        source name. Raises Forbidden outside of the roots, also through a link; NotFound."""
        if "\0" in path:
            raise BadRequest("bad_path", f"path={path!r} holds a null byte.", "Correct the path.")
        found = [real for real in self._candidates(path) if real.exists()]
        if inside := [real for real in found if self._root(real)]:
            return inside[0]
        if found or self._leaves(path):
            raise Forbidden(
                "path_outside_roots",
                f"path={path} is outside of the folders that may be indexed:"
                f" {', '.join(map(str, self._names)) or 'none'}.",
                "Move it into one of them.",
            )
        raise NotFound("no_file", f"There is nothing at path={path}.", "Check the path.")

    def source(self, path: Path) -> str:
        """The source name of a real path inside the roots."""
        root = self._root(path)
        if root is None:
            raise ValueError(f"{path} is outside of the roots")
        return (Path(self._names[root]) / path.relative_to(root)).as_posix()

    def _candidates(self, path: str) -> list[Path]:
        below = [root / path for root in self._names]
        named = [
            root / path[len(name) :].lstrip("/")
            for root, name in self._names.items()
            if path == name or path.startswith(f"{name}/")
        ]
        return [candidate.resolve() for candidate in (*below, *named)]

    def _root(self, real: Path) -> Path | None:
        holding = [root for root in self._names if real.is_relative_to(root)]
        return max(holding, key=lambda root: len(root.parts), default=None)

    def _leaves(self, path: str) -> bool:
        """Whether no reading of a path stays inside: then what is there is not told either."""
        return not any(self._root(candidate) for candidate in self._candidates(path))


def _name(folder: Path, folders: list[Path]) -> str:
    for length in range(1, len(folder.parts)):
        tail = folder.parts[-length:]
        if sum(other.parts[-length:] == tail for other in folders) == 1:
            return "/".join(tail)
    return folder.as_posix().lstrip("/")
