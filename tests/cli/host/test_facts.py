import sys
from pathlib import Path

from cli.host.command import Output, run
from cli.host.facts import examine


def test_a_machine_without_any_of_the_programs_is_still_examined(tmp_path: Path) -> None:
    host = examine(tmp_path / "not" / "made" / "yet", lambda command: Output(None, error="none"))
    assert host.ram_mib > 0
    assert host.disk_free > 0
    assert host.gpus.cards == ()
    assert host.docker.engine is None


def test_a_program_that_is_missing_or_fails_is_told() -> None:
    missing = run(("no-such-program",))
    assert missing.status is None
    assert "no-such-program" in missing.error
    failed = run((sys.executable, "-c", "import sys; print('out'); sys.exit('why')"))
    assert (failed.status, failed.out, failed.error, failed.ok) == (1, "out\n", "why", False)
