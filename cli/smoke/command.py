"""Which checks there are is a matter of the host's role."""

from cli.compose import this_host
from cli.smoke import table
from contracts.gateway_settings import load_gateway_settings


def smoke(as_json: bool, url: str | None) -> int:
    """Returns the exit status: 1 if any check failed."""
    deployment = this_host()
    if deployment.variet_role == "brain":
        from cli.smoke.brain import checks as of_brain

        return table.run("brain", of_brain(deployment, load_gateway_settings()), as_json)
    from cli.smoke.hands import checks as of_hands

    with of_hands(deployment, url) as found:
        return table.run("hands", found, as_json)
