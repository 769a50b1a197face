import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from contracts.settings import REPOSITORY
from orchestrator.knowledge.index import IndexClient
from tests.knowledge.qdrant_server import QdrantServer

STORES = ["edge", "qdrant"]


@dataclass
class RunningIndex:
    process: subprocess.Popen[bytes]
    client: IndexClient

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def end(self) -> int:
        """Close its standard input, as the death of its parent would; the exit status."""
        assert self.process.stdin
        self.process.stdin.close()
        return self.process.wait(timeout=10)


Launch = Callable[..., RunningIndex]


@pytest.fixture(scope="session")
def launch() -> Iterator[Launch]:
    """Starts index processes on a folder; ends those that still run."""
    running: list[RunningIndex] = []
    # A Unix socket's path is short, pytest's temporary folders are not.
    with TemporaryDirectory() as sockets:

        def start(folder: Path, *arguments: str) -> RunningIndex:
            socket = Path(sockets, str(len(running)), "index.sock")
            socket.parent.mkdir()
            command = [sys.executable, "-m", "orchestrator.knowledge.index_process"]
            command += ["--path", str(folder), "--socket", str(socket), "--with-parent"]
            process = subprocess.Popen(
                [*command, *arguments], cwd=REPOSITORY, stdin=subprocess.PIPE
            )
            index = RunningIndex(process, IndexClient(socket, patience=60))
            running.append(index)
            return index

        yield start
        for index in running:
            index.kill()
            assert index.process.stdin
            index.process.stdin.close()


@pytest.fixture(scope="session")
def qdrant_server() -> Iterator[QdrantServer]:
    with QdrantServer() as server:
        yield server
        assert server.violations == []


@pytest.fixture(scope="session", params=STORES)
def index(
    request: pytest.FixtureRequest, launch: Launch, tmp_path_factory: pytest.TempPathFactory
) -> IndexClient:
    """One index process per vector store, with the real embedding model, shared by the tests: a
    collection each."""
    arguments = []
    if request.param == "qdrant":
        arguments = ["--qdrant-url", request.getfixturevalue("qdrant_server").url]
    return launch(tmp_path_factory.mktemp("index"), *arguments).client


@dataclass
class Home:
    """Where a test's own index process keeps its collections."""

    folder: Path
    server: QdrantServer | None

    @property
    def arguments(self) -> list[str]:
        return ["--qdrant-url", self.server.url] if self.server else []

    @property
    def holds(self) -> list[str]:
        """Everything that is there, whether it is in use or not."""
        if self.server:
            return [note["collection"] for note in self.server.collections.values()]
        return sorted(path.name for path in self.folder.iterdir() if path.is_dir())


@pytest.fixture(params=STORES)
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Home]:
    folder = tmp_path / "index"
    if request.param == "edge":
        yield Home(folder, None)
        return
    with QdrantServer() as server:
        yield Home(folder, server)
        assert server.violations == []
