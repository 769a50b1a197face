"""Cards under load: sampled by nvidia-smi in a thread while the body works."""

import subprocess
import threading
from dataclasses import dataclass
from typing import Self

from cli.smoke.table import Failed
from contracts.errors import Unavailable

QUERY = "index,uuid,name,utilization.gpu,memory.used,memory.total"
SAMPLE_EVERY_S = 0.25
SAMPLES = 8
# A desktop keeps a card at a few percent; an engine at work is far above, on each of its cards.
BUSY_PERCENT = 10
CALL_TIMEOUT_S = 15.0
CORRECT = "Correct NVIDIA_VISIBLE_DEVICES_LLM and NVIDIA_VISIBLE_DEVICES_EMB."


@dataclass(frozen=True)
class Card:
    """One card at one moment. Memory in MiB, utilisation in percent; None where the driver does
    not tell."""

    index: str
    uuid: str
    name: str
    busy: int | None
    used: int | None
    total: int | None

    def is_called(self, given: str) -> bool:
        """Whether NVIDIA_VISIBLE_DEVICES means this card by `given`: index, UUID or its start."""
        return given == self.index or (len(given) > 4 and self.uuid.startswith(given))


def read() -> list[Card]:
    """Every card that the driver sees. Raises Unavailable."""
    try:
        done = subprocess.run(
            ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=CALL_TIMEOUT_S,
        )
    except FileNotFoundError as error:
        raise Unavailable(
            "no_driver",
            "There is no nvidia-smi on this host, and the settings name a GPU.",
            "Install the NVIDIA driver, or choose the preset cpu: variet init --preset cpu",
        ) from error
    except subprocess.TimeoutExpired as error:
        raise Unavailable(
            "driver_slow",
            f"nvidia-smi did not answer within {CALL_TIMEOUT_S:.0f} s.",
            "The driver may hang: look at dmesg.",
        ) from error
    if done.returncode:
        said = (done.stdout + done.stderr).strip().splitlines() or [f"status {done.returncode}"]
        raise Unavailable(
            "driver_failed",
            f"nvidia-smi failed: {said[0]}",
            "Repair the driver; then: variet doctor",
        )
    return parse(done.stdout)


def parse(said: str) -> list[Card]:
    cards = []
    for row in said.strip().splitlines():
        fields = [field.strip() for field in row.split(",")]
        if len(fields) != 6:
            raise Unavailable(
                "driver_failed", f"nvidia-smi wrote {row!r}.", "Update the driver; variet doctor"
            )
        index, uuid, name, busy, used, total = fields
        cards.append(Card(index, uuid, name, _number(busy), _number(used), _number(total)))
    return cards


def configured(given: str) -> list[str]:
    """The cards that a setting such as `0,1` names."""
    return [one.strip() for one in given.split(",") if one.strip()]


class Watch:
    """While it is entered, cards are sampled; afterwards `used` says which were at work."""

    def __init__(self) -> None:
        self._samples: list[Card] = []
        self._count = 0
        self._done = threading.Event()
        self._error: Unavailable | None = None
        self._thread = threading.Thread(target=self._sample, name="nvidia-smi", daemon=True)

    def __enter__(self) -> Self:
        self._samples = read()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    @property
    def waiting(self) -> bool:
        """Whether there are too few samples to say anything yet."""
        return self._error is None and self._count < SAMPLES

    def used(self, given: list[str]) -> list[str]:
        """A phrase for each card of `given`. Raises Failed for one that is not there, idled, or
        holds nothing, and when no card is given."""
        if self._error:
            raise self._error
        if not given:
            raise Failed("The engine has a GPU's image, but no card is configured.", CORRECT)
        return [self._of(name) for name in given]

    def others(self, given: list[str]) -> list[str]:
        """The cards that the driver sees besides those of `given`."""
        found = {card.index: card for card in self._samples}
        return [
            f"{card.index} {card.name}"
            for card in found.values()
            if not any(card.is_called(name) for name in given)
        ]

    def _of(self, name: str) -> str:
        seen = [card for card in self._samples if card.is_called(name)]
        if not seen:
            there = ", ".join(sorted({f"{c.index} ({c.name})" for c in self._samples})) or "none"
            raise Failed(
                f"Card {name} is configured, but the driver sees: {there}.",
                CORRECT,
            )
        card = seen[0]
        busy = max((one.busy for one in seen if one.busy is not None), default=None)
        used = max((one.used for one in seen if one.used is not None), default=None)
        if busy is None or busy < BUSY_PERCENT or not used:
            raise Failed(
                f"Card {name} ({card.name}) was idle under load: {_or(busy)} % busy,"
                f" {_or(used)} MiB used.",
                "The engine may run on the CPU: look at its log, and at `variet doctor`.",
            )
        return f"{name} {card.name}: {busy} % busy, {used} of {_or(card.total)} MiB"

    def _sample(self) -> None:
        while not self._done.wait(SAMPLE_EVERY_S):
            try:
                self._samples += read()
                self._count += 1
            except Unavailable as error:
                self._error = error
                return


def _number(text: str) -> int | None:
    try:
        return round(float(text))
    except ValueError:
        return None


def _or(value: int | None) -> str:
    return "?" if value is None else str(value)
