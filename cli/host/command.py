"""Runs another program for a fact. A program that is missing or fails is a fact too."""

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass

LIMIT_S = 10.0


@dataclass(frozen=True)
class Output:
    """`status` None: the program is not here, or did not end in time."""

    status: int | None
    out: str = ""
    error: str = ""

    @property
    def ok(self) -> bool:
        return self.status == 0


Runner = Callable[[Sequence[str]], Output]


def run(command: Sequence[str], limit_s: float = LIMIT_S) -> Output:
    """Run `command` with no input for at most `limit_s` seconds."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=limit_s,
        )
    except subprocess.TimeoutExpired:
        return Output(None, error=f"{command[0]} did not end within {limit_s:.0f} s")
    except OSError as error:
        return Output(None, error=f"{command[0]}: {error.strerror or error}")
    return Output(done.returncode, done.stdout, done.stderr.strip())
