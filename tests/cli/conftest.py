"""What the tests of the command line start from."""

from collections.abc import Iterator

import pytest

from cli.main import main
from tests.support.scripted_orchestrator import Scripted, scripted_orchestrator


@pytest.fixture
def orchestrator(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scripted]:
    with scripted_orchestrator() as script:
        monkeypatch.setenv("VARIET_URL", script.url)
        monkeypatch.delenv("VARIET_API_KEY", raising=False)
        yield script


class Variet:
    """The command in this process: `variet("runs", "list")` returns its exit status."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch

    def __call__(self, *words: str) -> int:
        self._monkeypatch.setattr("sys.argv", ["variet", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code
        return code if isinstance(code, int) else 0


@pytest.fixture
def variet(monkeypatch: pytest.MonkeyPatch) -> Variet:
    monkeypatch.setenv("COLUMNS", "200")
    return Variet(monkeypatch)
