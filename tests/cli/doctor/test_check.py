import threading
from collections.abc import Iterator
from functools import partial

from cli.doctor.check import Check, run
from cli.doctor.finding import Finding, ok
from contracts.errors import SettingsError


def test_what_hangs_is_left_alone_and_what_it_found_before_counts() -> None:
    never = threading.Event()

    def hang() -> Iterator[Finding]:
        yield ok("first", "found")
        never.wait()
        yield ok("second", "never")

    found = run([Check("hanging", hang, limit_s=0.2), Check("quick", lambda: [ok("quick", "")])])
    never.set()
    assert [one.name for one in found] == ["first", "hanging", "quick"]
    assert found[1].status == "failure"
    assert found[1].remedy


def test_checks_run_at_the_same_time_and_are_told_in_their_order() -> None:
    met = threading.Barrier(3)

    def meet(name: str) -> Iterator[Finding]:
        met.wait()
        yield ok(name, "met the others")

    names = ["a", "b", "c"]
    found = run([Check(name, partial(meet, name), limit_s=60) for name in names])
    assert [one.name for one in found] == names


def test_a_check_that_breaks_off_hides_no_other() -> None:
    def refuse() -> Iterator[Finding]:
        raise SettingsError("bad", "PORT=x is wrong.", "Correct it.")

    def crash() -> Iterator[Finding]:
        yield ok("before", "")
        raise KeyError("data")

    found = run(
        [Check("told", refuse), Check("crash", crash), Check("last", lambda: [ok("z", "")])]
    )
    assert [one.name for one in found] == ["told", "before", "crash", "z"]
    assert (found[0].status, found[0].remedy) == ("failure", "Correct it.")
    assert "KeyError" in found[2].detail
