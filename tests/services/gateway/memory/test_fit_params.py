"""The answers are recorded ones: of a processor from Debian's llama-fit-params 0.7.0 (build 11669),
of cards as its source prints them, not run on a GPU. Where the program is installed it is run, too.
"""

import shutil
from pathlib import Path

import pytest

from contracts.settings import REPOSITORY
from services.gateway.memory.fit_params import PROGRAM, FitParams, Line, arguments, parse
from tests.services.gateway.memory.engines import spec

NANO = REPOSITORY / "models/nano/nano.gguf"
# `llama-fit-params --model nano.gguf --ctx-size 4096 --parallel 2 ... --fit-print on`
DEBIAN = "Host 1 6 9 \n"
CARDS = "CUDA0 8123 374 404\nCUDA1 7950 340 810\nHost 682 0 136 \n"
FLAGS = ("--n-gpu-layers", "all", "--cache-ram", "4096", "--flash-attn", "on", "--jinja")


def program(folder: Path, answer: str, status: int = 0) -> Path:
    """It notes what it was called with."""
    path = folder / PROGRAM
    path.write_text(
        "#!/bin/sh\n"
        f'echo "$CUDA_VISIBLE_DEVICES|$*" >> {folder}/calls\n'
        'case "$*" in *--version*) echo "version: 0.7.0 (build 11669)" >&2; exit 0;; esac\n'
        f"cat <<'EOF'\n{answer}EOF\n"
        f"exit {status}\n"
    )
    path.chmod(0o755)
    return path


def calls(folder: Path) -> list[str]:
    return (folder / "calls").read_text().splitlines()


def model(folder: Path) -> Path:
    path = folder / "m.gguf"
    path.write_bytes(b"GGUF")
    return path


def test_its_lines_are_read_and_other_text_is_not() -> None:
    assert parse(DEBIAN) == (Line("Host", 1, 6, 9),)
    assert parse("0.02 I printing estimated memory in MiB\n" + CARDS)[1] == (
        Line("CUDA1", 7_950, 340, 810)
    )
    assert parse("") == ()


def test_it_is_told_only_what_it_knows() -> None:
    engine = spec(None, *FLAGS, "--parallel", "2", "--kv-unified", "--cpu-moe", "--ubatch-size")
    assert arguments(engine, 4_096) == (
        *("--ctx-size", "4096", "--parallel", "2"),
        *("--n-gpu-layers", "all", "--flash-attn", "on", "--parallel", "2", "--cpu-moe"),
        *("--ubatch-size", ""),
    )


def test_each_card_takes_what_it_says_and_cuda_itself(tmp_path: Path) -> None:
    fit = FitParams((str(program(tmp_path, CARDS)),), tmp_path / "state")
    told = fit.told(spec(None, *FLAGS, cards=(1, 0)), 8_192, model(tmp_path), "GPU-1,GPU-0")
    assert told == {"card1": 8_123 + 374 + 404 + 400, "card0": 7_950 + 340 + 810 + 400}
    assert calls(tmp_path)[-1].startswith("GPU-1,GPU-0|--model")
    assert calls(tmp_path)[-1].endswith("--fit-print on")
    # With one cache for two requests the mask of all of it is worked with: 4 MiB more.
    shared = spec(None, *FLAGS, "--parallel", "2", "--kv-unified", cards=(0,))
    assert fit.told(shared, 8_192, model(tmp_path)) == {"card0": 8_123 + 374 + 404 + 400 + 4}


def test_it_is_asked_once_for_the_same(tmp_path: Path) -> None:
    path, state, file = program(tmp_path, CARDS), tmp_path / "state", model(tmp_path)
    engine = spec(None, *FLAGS)
    first = FitParams((str(path),), state).told(engine, 8_192, file)
    again = FitParams((str(path),), state)
    assert again.told(engine, 8_192, file) == first
    asked = [call for call in calls(tmp_path) if "--version" not in call]
    assert len(asked) == 1
    again.told(engine, 4_096, file)
    file.write_bytes(b"GGUF another")
    again.told(engine, 8_192, file)
    assert len([call for call in calls(tmp_path) if "--version" not in call]) == 3


def test_a_damaged_memory_is_asked_for_anew(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    (state / "fit-params.json").write_text('{"a": [')
    fit = FitParams((str(program(tmp_path, CARDS)),), state)
    assert len(fit.told(spec(), 8_192, model(tmp_path))) == 2


def test_where_it_cannot_say_nothing_is_told(tmp_path: Path) -> None:
    fit = FitParams((str(program(tmp_path, "", status=1)),), tmp_path / "state")
    assert fit.told(spec(), 8_192, model(tmp_path)) == {}
    assert fit.told(spec(), 8_192, None) == {}
    assert fit.told(spec(), 8_192, tmp_path / "absent.gguf") == {}
    assert fit.told(spec(cards=()), 8_192, model(tmp_path)) == {}
    # The program refuses this mode.
    assert fit.told(spec(None, "--split-mode", "tensor"), 8_192, model(tmp_path)) == {}
    assert FitParams((str(tmp_path / "none"),), tmp_path).told(spec(), 1, model(tmp_path)) == {}


def test_it_is_looked_for_beside_the_server(tmp_path: Path) -> None:
    server = tmp_path / "llama-server"
    server.write_text("#!/bin/sh\n")
    server.chmod(0o755)
    assert FitParams.beside(f"{server} --verbose", tmp_path) is None
    program(tmp_path, CARDS)
    assert FitParams.beside(f"{server} --verbose", tmp_path) is not None
    assert FitParams.beside("", tmp_path) is None
    assert FitParams.beside("no-such-server", tmp_path) is None


@pytest.mark.skipif(shutil.which(PROGRAM) is None, reason=f"{PROGRAM} is not installed")
def test_the_real_program_takes_these_arguments(tmp_path: Path) -> None:
    found = FitParams((PROGRAM,), tmp_path)
    engine = spec(None, *FLAGS, "--parallel", "2", cards=(0,))
    found.told(engine, 4_096, NANO)
    kept = (tmp_path / "fit-params.json").read_text()
    assert "Host " in kept
