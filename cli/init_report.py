"""What `variet init` tells: the machine, what does not fit, what was written, what comes next."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from cli.host import secret
from cli.host.answers import Answers
from cli.host.facts import Host
from cli.host.plan import FORMER
from cli.host.problems import Problem
from cli.show import line
from cli.text import exact, size
from contracts.manifest import ManifestEntry
from contracts.preset import HostPreset
from contracts.settings import REPOSITORY
from models.manifest import load_manifest, load_preset
from models.store import Store

MIB = 2**20
WIDTH = 12


@dataclass(frozen=True)
class ToFetch:
    """A model that is not here. `size` in bytes; `by` says who fetches it."""

    id: str
    size: int
    by: str


@dataclass(frozen=True)
class Outcome:
    """`before` and `after` are the values of the file."""

    path: Path
    answers: Answers
    host: Host
    before: Mapping[str, str]
    after: Mapping[str, str]
    problems: Sequence[Problem]
    missing: Sequence[ToFetch]

    @property
    def changes(self) -> dict[str, str | None]:
        """New and changed values, masked; None: the line is gone."""
        new = {n: v for n, v in self.after.items() if self.before.get(n) != v}
        gone = [name for name in self.before if name not in self.after]
        masked: dict[str, str | None] = {n: secret.masked(n, v) for n, v in new.items()}
        return masked | dict.fromkeys(gone)

    def as_json(self, folders: list[str], written: bool, show_key: bool) -> dict[str, Any]:
        return {
            "file": str(self.path),
            "written": written,
            "role": self.answers.role,
            "preset": self.answers.preset,
            "changes": self.changes,
            "folders": folders,
            "host": asdict(self.host),
            "problems": [asdict(problem) for problem in self.problems],
            "to_fetch": [asdict(one) for one in self.missing],
            "next": [command for command, _ in next_steps(self, show_key)] if written else [],
        }


def to_fetch(answers: Answers) -> list[ToFetch]:
    """The models of all tiers and of retrieval that are not on this disk yet, the chosen tier's
    first."""
    if answers.role == "hands" or answers.preset is None:
        return []
    preset, manifest = load_preset(answers.preset), load_manifest()
    tiers = (answers.tier, *preset.tiers)
    ids = dict.fromkeys((*(preset.tiers[one].model for one in tiers), *_retrieval(preset)))
    entries = [entry for one in ids if (entry := manifest.get(one))]
    return [_fetch(entry) for entry in entries if not _here(entry, answers)]


def print_host(outcome: Outcome, console: Console) -> None:
    for name, fact in _facts(outcome.host):
        line(console, f"{name:<{WIDTH}}", "bold", end="")
        line(console, exact(fact))
    for problem in outcome.problems:
        mark, style = ("✗", "red") if problem.fatal else ("!", "yellow")
        line(console, f"{mark} {exact(problem.text)}.", style)
        line(console, f"  → {exact(problem.remedy)}", style)


def print_refusal(outcome: Outcome, console: Console) -> None:
    line(console, f"Nothing was written to {outcome.path}.", "red")


def print_written(outcome: Outcome, folders: list[str], console: Console) -> None:
    line(console, "")
    if not outcome.changes:
        line(console, f"{outcome.path} is as it has to be: nothing changed.", "green")
    else:
        line(console, f"Wrote {outcome.path} (readable by its owner only):", "green")
    for name, value in outcome.changes.items():
        told = _gone(outcome, name) if value is None else f"{name}={exact(value)}"
        line(console, f"  {told}")
    for folder in folders:
        line(console, f"Made {folder}")


def _gone(outcome: Outcome, name: str) -> str:
    if name not in FORMER or outcome.answers.role != "brain":
        return f"{name} is gone"
    return f"{name} is gone (it was {exact(outcome.before[name]) or 'empty'}): {FORMER[name]}"


def print_next(outcome: Outcome, console: Console, show_key: bool) -> None:
    line(console, "")
    line(console, "What comes next:", "bold")
    for command, why in next_steps(outcome, show_key):
        line(console, f"  {why}:" if why else "")
        line(console, f"    {exact(command)}", "bold")


def next_steps(outcome: Outcome, show_key: bool) -> Iterator[tuple[str, str]]:
    """Commands, each with what it is for."""
    answers = outcome.answers
    variet, make = _prefix(outcome.path)
    for one in outcome.missing:
        if one.by == "":
            yield f"{variet} models pull {one.id}", f"Fetch {one.id} ({size(one.size)})"
    if answers.role == "hands":
        yield f"{make} up", "Start the stack"
        yield f"{make} smoke", "Try all that it promises"
        return
    preset = load_preset(answers.preset or "")
    if preset.native:
        why = "Start the gateway; its llama-server comes with: brew install llama.cpp"
        yield f"{make} gateway", why
    else:
        if FORMER.keys() & (outcome.before.keys() - outcome.after.keys()):
            # Compose cannot make a network anew that their containers are still on.
            yield f"{make} down", "End the engines of before the gateway, if they run"
        yield f"{make} up", _engines_fetch(outcome) or "Start the gateway"
        yield f"{make} smoke", "Try all that it promises"
    if not answers.hands_ip and not preset.native:
        why = "Name the workstation; then the firewall can keep all others out"
        yield f"{variet} init --hands-ip IP", why
    elif not preset.native:
        flag = "" if outcome.path == REPOSITORY / ".env" else f" --env-file {outcome.path}"
        rules = f"sudo services/firewall/firewall.sh apply{flag}"
        yield rules, f"Let nobody but {answers.hands_ip} reach its port"
    key = outcome.after["GATEWAY_API_KEY"] if show_key else "KEY"
    where = "On the workstation" + ("" if show_key else "; KEY is GATEWAY_API_KEY of this file")
    flags = f"--role hands --preset {answers.preset} {_address(outcome)} --brain-key {key}"
    yield f".venv/bin/variet init {flags}", where


def _address(outcome: Outcome) -> str:
    """How the workstation names this brain, with its port where it is not the usual one."""
    ip, port = outcome.answers.lan_ip, outcome.after.get("GATEWAY_PORT", "8000")
    named = f"--brain-ip {ip}"
    return named if port == "8000" else f"{named} --brain-url http://{ip}:{port}/v1"


def _prefix(path: Path) -> tuple[str, str]:
    """How `variet` and `make` are called with that file."""
    if path == REPOSITORY / ".env":
        return ".venv/bin/variet", "make"
    return f"VARIET_ENV_FILE={path} .venv/bin/variet", f"make ENV_FILE={path}"


def _engines_fetch(outcome: Outcome) -> str:
    fetched = [f"{one.id}, {size(one.size)}" for one in outcome.missing if one.by]
    return f"Start it; its engines fetch about: {'; '.join(fetched)}" if fetched else ""


def _retrieval(preset: HostPreset) -> Iterator[str]:
    yield preset.embed
    if "rerank" in preset.profiles and preset.rerank:
        yield preset.rerank


def _here(entry: ManifestEntry, answers: Answers) -> bool:
    assert answers.model_store and answers.hf_home, "the brain has both"  # noqa: PT018
    if entry.source.repository is None:
        return Store(answers.model_store).has(entry)
    name = f"models--{entry.source.repository.replace('/', '--')}"
    return (answers.hf_home / "hub" / name / "snapshots").is_dir()


def _fetch(entry: ManifestEntry) -> ToFetch:
    """TEI's repositories hold 32 bits per number, of which it keeps 16."""
    times = 2 if entry.engine == "tei" else 1
    by = "" if entry.source.is_web else entry.engine
    return ToFetch(entry.id, (entry.weights or 0) * times * MIB, by)


def _facts(host: Host) -> Iterator[tuple[str, str]]:
    for gpu in host.gpus.cards:
        free = f"{gpu.free_mib} of {gpu.total_mib} MiB free"
        yield f"card {gpu.index}", f"{gpu.name}, {free}, driver {gpu.driver}"
    if not host.gpus.cards:
        yield "cards", f"none ({host.gpus.problem})"
    yield "memory", f"{host.ram_mib} MiB, {host.cpus} processor cores"
    yield "disk", f"{size(host.disk_free)} free"
    engine = host.docker.engine or f"none ({host.docker.problem})"
    yield "docker", f"engine {engine}, Compose {host.docker.compose or 'none'}"
    real = [one for one in host.addresses if not one.virtual]
    known = [f"{one.ip} ({one.interface or 'default'})" for one in real]
    yield "addresses", ", ".join(known) or "none"
