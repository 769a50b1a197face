"""`variet init`: give this host its role. Looks at it, asks what it cannot know, writes `.env`."""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import typer
from rich.console import Console

from cli import init_report as report
from cli.host.answers import PROFILES, Answers, answers_of, check_profiles, located
from cli.host.dotenv import EnvFile
from cli.host.facts import Host, examine
from cli.host.folders import make_folders
from cli.host.images import fitting
from cli.host.plan import plan
from cli.host.problems import check_address, problems
from cli.host.proposal import cards_for, propose, tei_variant
from contracts.deployment import Role, load_deployment
from contracts.errors import SettingsError
from contracts.gateway_settings import load_gateway_settings
from contracts.manifest import Tier
from contracts.settings import load_settings
from contracts.settings_reading import env_file
from models.manifest import load_manifest, load_preset, preset_names

NONE = "none"


@dataclass(frozen=True)
class Given:
    """What the command line says; None: nothing."""

    role: Role | None = None
    preset: str | None = None
    tier: Tier | None = None
    lan_ip: str | None = None
    brain_ip: str | None = None
    brain_url: str | None = None
    embed_url: str | None = None
    brain_key: str | None = None
    hands_ip: str | None = None
    profiles: str | None = None
    workspace: Path | None = None
    env_file: Path | None = None
    yes: bool = False
    show_key: bool = False
    as_json: bool = False


class Questions:
    """Asks on a terminal. Without one, what is missing is an error that names the flag."""

    def __init__(self, given: Given) -> None:
        self._accepts = given.yes
        self.possible = sys.stdin.isatty() and sys.stdout.isatty() and not given.as_json

    def ask(self, flag: str, question: str, proposal: str | None, hidden: bool = False) -> str:
        """The answer, never empty. `--yes` takes the proposal, where there is one."""
        if self._accepts and proposal is not None:
            return proposal
        if not self.possible:
            offer = "" if proposal is None else f" --yes takes what is proposed: {proposal}"
            raise SettingsError(
                "no_answer",
                f"{flag} is not given, and nobody can be asked: this is no terminal.",
                f"Give it: {flag} ...{offer}",
            )
        return str(typer.prompt(question, default=proposal, hide_input=hidden))

    def agree(self, question: str) -> bool:
        return self._accepts or not self.possible or typer.confirm(question, default=True)


def init(given: Given) -> int:
    """Returns the exit status: 1 if this host cannot be what it is to be, or the person says no."""
    path = given.env_file.absolute() if given.env_file else env_file()
    here = EnvFile.read(path)
    said = here.resolved
    before = answers_of(said)
    questions = Questions(given)
    role = _role(given, before, path, questions)
    state = located(said.get("STATE_DIR") or "data/state")
    host = examine(located(said.get("MODEL_STORE") or str(state)))
    base = before or answers_of(said, role) or Answers(role)
    answers = _answers(given, base, _owner(host, before), host, state, questions)
    changed = here.with_sections(plan(answers, here.values, before=_then(before, answers)))
    _validate(changed.resolved, path)
    missing = report.to_fetch(answers)
    wrong = list(problems(answers, host, load_manifest(), sum(one.size for one in missing)))
    outcome = report.Outcome(path, answers, host, here.values, changed.values, wrong, missing)
    show = given.show_key or (sys.stdout.isatty() and not given.as_json)
    if given.as_json:
        return _as_json(outcome, changed, state, show)
    console = Console()
    report.print_host(outcome, console)
    if any(problem.fatal for problem in wrong):
        report.print_refusal(outcome, console)
        return 1
    if changed.text != here.text and not questions.agree(f"Write {path}?"):
        return 1
    report.print_written(outcome, _write(outcome, changed, state), console)
    report.print_next(outcome, console, show)
    return 0


def _as_json(outcome: report.Outcome, changed: EnvFile, state: Path, show: bool) -> int:
    refused = any(problem.fatal for problem in outcome.problems)
    made = [] if refused else _write(outcome, changed, state)
    sys.stdout.write(json.dumps(outcome.as_json(made, not refused, show), indent=2) + "\n")
    return int(refused)


def _write(outcome: report.Outcome, changed: EnvFile, state: Path) -> list[str]:
    """Make the folders, then write the file; says which folders were made."""
    answers = outcome.answers
    made = make_folders(changed.resolved, state, answers.uid, answers.gid)
    if outcome.changes or not outcome.path.exists():
        changed.write(outcome.path)
    else:
        outcome.path.chmod(0o600)
    if os.geteuid() == 0 and "SUDO_UID" in os.environ:
        os.chown(outcome.path, answers.uid, answers.gid)
    return made


def _role(given: Given, before: Answers | None, path: Path, questions: Questions) -> Role:
    if before is not None:
        if given.role not in (None, before.role):
            raise SettingsError(
                "other_role",
                f"--role {given.role}: {path} is that of the {before.role}.",
                f"Name another file: --env-file {given.role}.env",
            )
        return before.role
    if given.role is not None:
        return given.role
    said = questions.ask(
        "--role", "What is this host? brain (it has the cards) or hands (you work here)", None
    )
    for role in PROFILES:
        if said == role:
            return role
    raise SettingsError("bad_role", f"--role {said}: there is no such role.", "brain or hands.")


def _answers(
    given: Given,
    base: Answers,
    owner: tuple[int, int],
    host: Host,
    state: Path,
    questions: Questions,
) -> Answers:
    """What is given, else what the file says, else what a person says to a proposal."""
    role = base.role
    base = replace(
        base,
        uid=owner[0],
        gid=owner[1],
        tier=given.tier or base.tier,
        lan_ip=given.lan_ip or base.lan_ip,
        hands_ip=given.hands_ip or base.hands_ip,
        profiles=_profiles(given, role, base),
    )
    for flag, ip in (
        ("--lan-ip", given.lan_ip),
        ("--brain-ip", given.brain_ip),
        ("--hands-ip", given.hands_ip),
    ):
        if ip is not None:
            check_address(flag, ip)
    if role == "brain":
        return _brain(given, base, host, state, questions)
    return _hands(given, base, state, questions)


def _brain(given: Given, base: Answers, host: Host, state: Path, questions: Questions) -> Answers:
    name = given.preset or base.preset
    if name is None:
        choice = f"Which hardware preset? ({', '.join(preset_names())})"
        name = questions.ask("--preset", choice, propose(host))
    preset = load_preset(name)
    lan_ip = base.lan_ip or questions.ask(
        "--lan-ip", "Which address of this host do others on the LAN reach?", host.lan_ip
    )
    check_address("--lan-ip", lan_ip)
    llamacpp = preset.images.llamacpp
    return replace(
        base,
        preset=name,
        lan_ip=lan_ip,
        model_store=base.model_store or state / "models",
        hf_home=base.hf_home or state / "hub",
        llamacpp=fitting(llamacpp, host.gpus) if llamacpp else None,
        tei=tei_variant(preset, host),
        cards=cards_for(preset, host),
        cpus=host.cpus,
    )


def _hands(given: Given, base: Answers, state: Path, questions: Questions) -> Answers:
    brain_ip = given.brain_ip or base.brain_ip
    brain_url = given.brain_url or base.brain_url
    if brain_ip is None and brain_url is None:
        brain_ip = questions.ask("--brain-ip", "What is the brain's address on the LAN?", None)
        check_address("--brain-ip", brain_ip)
    key = given.brain_key or base.brain_key
    if key == "-":
        key = sys.stdin.readline().strip()
    if not key:
        question = "What is its key? (GATEWAY_API_KEY of its .env)"
        key = questions.ask("--brain-key", question, None, hidden=True)
    preset = given.preset or base.preset
    if preset is None and questions.possible and not given.yes:
        question = f"What is its hardware preset? ({', '.join(preset_names())}; none: not known)"
        preset = questions.ask("--preset", question, NONE)
    return replace(
        base,
        preset=None if preset == NONE else preset,
        brain_ip=brain_ip,
        brain_url=None if given.brain_ip and not given.brain_url else brain_url,
        embed_url=given.embed_url or (None if given.brain_ip else base.embed_url),
        brain_key=key,
        workspace=_workspace(given, base, state),
    )


def _workspace(given: Given, base: Answers, state: Path) -> Path:
    if given.workspace is not None:
        return given.workspace.expanduser().absolute()
    return base.workspace or state / "workspace"


def _profiles(given: Given, role: Role, base: Answers) -> tuple[str, ...] | None:
    if given.profiles is None:
        return base.profiles if base.profiles is not None or role == "brain" else PROFILES["hands"]
    names = tuple(name.strip() for name in given.profiles.split(",") if name.strip())
    names = () if names == (NONE,) else names
    check_profiles(role, names)
    return names


def _owner(host: Host, before: Answers | None) -> tuple[int, int]:
    """Who owns the folders and works in them: never root, whoever runs this."""
    if host.uid != 0:
        return host.uid, host.gid
    if before is not None:
        return before.uid, before.gid
    return int(os.environ.get("SUDO_UID") or 1000), int(os.environ.get("SUDO_GID") or 1000)


def _then(before: Answers | None, now: Answers) -> Answers | None:
    """The answers of then, as this machine is now: facts of it are no changed answer."""
    if before is None:
        return None
    if before.preset != now.preset:
        return before
    return replace(before, llamacpp=now.llamacpp, tei=now.tei, cards=now.cards, cpus=now.cpus)


def _validate(values: Mapping[str, str], path: Path) -> None:
    """Everything that will be read from the file, before it is written."""
    given = {name.lower(): value for name, value in values.items() if value}
    try:
        load_settings(_env_file=None, **given)
        load_deployment(_env_file=None, **given)
        load_gateway_settings(_env_file=None, **given)
    except SettingsError as error:
        remedy = f"Give another answer, or correct it in {path}."
        raise SettingsError(error.code, error.message, remedy) from error
