"""What was measured on the way, for the end of the run."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

MB = 1_000_000


@dataclass
class Report:
    """`times` in seconds by what took them; `faults` are rows of fault, behaviour and seconds."""

    times: dict[str, float] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    faults: list[tuple[str, str, float]] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)
    memory: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.times[what] = time.monotonic() - began

    def note(self, title: str, text: str) -> None:
        self.notes[title] = text.rstrip()

    def fault(self, fault: str, behaviour: str, seconds: float) -> None:
        self.faults.append((fault, behaviour, seconds))

    def measured(self, host: str, sizes: Mapping[str, int], memory: Mapping[str, str]) -> None:
        self.sizes |= {f"{host} {name}": size for name, size in sizes.items()}
        self.memory |= {f"{host} {name}": held for name, held in memory.items()}

    def lines(self) -> Iterator[str]:
        for title, text in self.notes.items():
            yield f"-- {title}"
            yield from (f"   {line}" for line in text.splitlines())
        if self.times:
            yield "-- seconds"
            yield from (f"   {took:6.1f}  {what}" for what, took in self.times.items())
        if self.sizes:
            yield "-- image size, idle memory"
            for name, size in self.sizes.items():
                yield f"   {name:22} {size / MB:5.0f} MB  {self.memory.get(name, ''):>10}"
        if self.faults:
            yield "-- fault → behaviour (seconds)"
            for fault, behaviour, seconds in self.faults:
                yield f"   {fault} → {behaviour} ({seconds:.1f})"
