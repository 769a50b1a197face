"""When the brain may sleep, on a clock of the test's own."""

import pytest

from contracts.errors import SettingsError
from services.gateway.wake import SleepAfterIdle, sleep_command


class Day:
    """The clock, and what the gateway did last."""

    def __init__(self) -> None:
        self.now = 100.0
        self.last_activity = 100.0
        self.working = False

    def busy(self) -> bool:
        return self.working

    def sleep(self, *words: str) -> SleepAfterIdle:
        return SleepAfterIdle(words or ("true",), 60.0, self, lambda: self.now)


def test_it_is_due_after_the_idle_time_and_not_before() -> None:
    day = Day()
    sleep = day.sleep()
    assert not sleep.due()
    assert sleep.wait_s() == 60.0
    day.now = 159.0
    assert not sleep.due()
    assert sleep.wait_s() == 1.0
    day.now = 160.0
    assert sleep.due()


def test_whatever_is_here_or_comes_up_keeps_it_awake() -> None:
    day = Day()
    sleep = day.sleep()
    day.now, day.working = 500.0, True
    assert not sleep.due()
    assert sleep.wait_s() == 60.0


async def test_it_sleeps_once_per_idle_period() -> None:
    day = Day()
    sleep = day.sleep()
    day.now = 200.0
    assert await sleep.sleep_if_due()
    day.now = 1_000.0
    assert not await sleep.sleep_if_due()
    day.last_activity = 1_001.0
    day.now = 1_100.0
    assert await sleep.sleep_if_due()


async def test_a_command_that_cannot_be_run_is_logged_and_nothing_more(
    caplog: pytest.LogCaptureFixture,
) -> None:
    day = Day()
    sleep = day.sleep("/no/such/program")
    day.now = 200.0
    assert await sleep.sleep_if_due()
    assert "BRAIN_SLEEP_COMMAND cannot be run" in caplog.text


def test_a_command_is_words_and_no_shell() -> None:
    assert sleep_command("ssh host 'systemctl suspend'") == ("ssh", "host", "systemctl suspend")
    for wrong in (None, "", "  ", "say 'never closed"):
        with pytest.raises(SettingsError, match="BRAIN_SLEEP_COMMAND"):
            sleep_command(wrong)
