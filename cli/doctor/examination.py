"""Which checks there are for a role, and their report."""

from collections.abc import Sequence

from cli.doctor import installation
from cli.doctor.check import Check
from cli.doctor.check import run as run_checks
from cli.doctor.finding import Finding, ok, report, told
from cli.host.command import Output, Runner, run
from contracts.deployment import Deployment, Role, load_deployment
from contracts.errors import VarietError
from contracts.gateway_settings import GatewaySettings, load_gateway_settings
from contracts.settings import Settings, load_settings

# A check asks two programs at most. The driver of an idle card wakes up first.
PROGRAM_S = 4.0
DRIVER_S = 8.0


def doctor(as_json: bool, url: str | None, role: Role | None = None) -> int:
    """Returns the exit status: 1 if any part is a failure. `role` wins over VARIET_ROLE; with
    neither, it is the embedded stack that is looked at."""
    found, chosen = examine(url, role)
    return report(found, chosen, as_json)


def examine(
    url: str | None, role: Role | None, runner: Runner | None = None
) -> tuple[list[Finding], Role | None]:
    """Every finding, in the order in which a person would mend them, and the role."""
    try:
        here, settings = load_deployment(), load_settings()
        gateway = load_gateway_settings()
    except VarietError as error:
        before = run_checks(list(installation.command(embedded=role is None)))
        return [*before, told("settings", error)], role
    chosen = role or here.variet_role
    first = list(installation.command(embedded=chosen is None))
    read = Check("settings", lambda: [ok("settings", "read from the environment and .env")])
    mine = here.model_copy(update={"variet_role": chosen})
    rest = _of_role(chosen, mine, settings, gateway, url, runner or _quickly)
    return run_checks([*first, read, *rest]), chosen


def _of_role(
    role: Role | None,
    here: Deployment,
    settings: Settings,
    gateway: GatewaySettings,
    url: str | None,
    runner: Runner,
) -> Sequence[Check]:
    if role == "brain":
        from cli.doctor import brain

        return brain.checks(here, settings, gateway, runner)
    if role == "hands":
        from cli.doctor import hands

        return hands.checks(here, settings, gateway, runner, url)
    return list(installation.stack(settings, url))


def _quickly(command: Sequence[str]) -> Output:
    return run(command, DRIVER_S if command[0] == "nvidia-smi" else PROGRAM_S)
