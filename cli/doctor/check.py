"""Checks side by side, each with a time limit."""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from cli.doctor.finding import Finding, failure, told
from contracts.errors import VarietError

LIMIT_S = 8.5


@dataclass(frozen=True)
class Check:
    """`look` yields what it finds. After `limit_s` seconds it is left alone: what it found so far
    counts, and that it did not end is a failure."""

    name: str
    look: Callable[[], Iterable[Finding]]
    limit_s: float = LIMIT_S


@dataclass
class _Running:
    check: Check
    found: list[Finding] = field(default_factory=list)
    ended: bool = False

    def __call__(self) -> None:
        try:
            for one in self.check.look():
                self.found.append(one)
        except VarietError as error:
            self.found.append(told(self.check.name, error))
        except Exception as error:  # boundary: one check that breaks must not hide the others
            self.found.append(_broken(self.check.name, error))
        self.ended = True


def run(checks: Sequence[Check]) -> list[Finding]:
    """What all of them find, in their order."""
    running = [_Running(check) for check in checks]
    began = time.monotonic()
    # Nothing waits for a daemon when the command ends, not even what hangs in the kernel.
    threads = [threading.Thread(target=one, name=one.check.name, daemon=True) for one in running]
    for thread in threads:
        thread.start()
    found: list[Finding] = []
    for one, thread in zip(running, threads, strict=True):
        thread.join(max(0.0, began + one.check.limit_s - time.monotonic()))
        found += _collected(one)
    return found


def _collected(one: _Running) -> list[Finding]:
    if one.ended:
        return one.found
    late = failure(
        one.check.name,
        f"This check did not end within {one.check.limit_s:.0f} s.",
        "Something that it asks hangs: look at the parts around it, then try again.",
    )
    return [*one.found, late]


def _broken(name: str, error: Exception) -> Finding:
    said = f"{type(error).__name__}: {error}".removesuffix(": ")
    return failure(
        name, f"This check broke off: {said}.", "This is an error of Variet: please report it."
    )
