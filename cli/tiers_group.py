"""The commands that ask the brain's gateway: tiers, swap, wake."""

from typing import Annotated

import typer

from cli.options import SETTINGS, AsJson

tiers = typer.Typer(
    rich_markup_mode=None,
    invoke_without_command=True,
    context_settings=SETTINGS,
)

Name = Annotated[
    str, typer.Argument(metavar="TIER", help="Tier, alias or engine, as `variet tiers` shows it.")
]
Brain = Annotated[
    str | None,
    typer.Option(
        "--url",
        metavar="URL",
        help="Address of the gateway. [default: $OPENAI_COMPAT_URL; on the brain its own]",
        show_default=False,
    ),
]


@tiers.callback()
def _tiers(
    context: typer.Context,
    as_json: AsJson = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Again each second, until Ctrl-C.")
    ] = False,
    url: Brain = None,
) -> None:
    """The brain's engines: which are loaded, what waits for them, and their memory.

    Without a command: a table of them, and a line per device. Loading is: variet swap TIER

    \b
    Examples:
      variet tiers
      variet tiers --watch
      variet tiers --json
    """
    if context.invoked_subcommand is not None:
        return
    from rich.console import Console

    from cli.tiers import show

    show(url, as_json, watch, Console())


@tiers.command()
def unload(tier: Name, url: Brain = None) -> None:
    """Let a tier's answers end, then free its memory. Refused while requests wait for it.

    \b
    Examples:
      variet tiers unload deep
    """
    from rich.console import Console

    from cli.tiers import unload as leave

    leave(tier, url, Console())


@tiers.command()
def pin(tier: Name, url: Brain = None) -> None:
    """Keep a tier loaded: it is not unloaded for another model.

    \b
    Examples:
      variet tiers pin fast
    """
    _switch(tier, "pin", True, url)


@tiers.command()
def unpin(tier: Name, url: Brain = None) -> None:
    """Let a tier be unloaded for another model again.

    \b
    Examples:
      variet tiers unpin fast
    """
    _switch(tier, "pin", False, url)


@tiers.command()
def lock(tier: Name, url: Brain = None) -> None:
    """Load nothing beside this tier: requests for what is not loaded fail at once.

    \b
    Examples:
      variet tiers lock deep
    """
    _switch(tier, "lock", True, url)


@tiers.command()
def unlock(tier: Name, url: Brain = None) -> None:
    """Load other tiers again, too.

    \b
    Examples:
      variet tiers unlock deep
    """
    _switch(tier, "lock", False, url)


@tiers.command()
def logs(
    tier: Name,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what it writes, until Ctrl-C.")
    ] = False,
    url: Brain = None,
) -> None:
    """Print the log of a tier's engine, of its last start.

    \b
    Examples:
      variet tiers logs balanced
      variet tiers logs balanced --follow
    """
    from cli.tiers import logs as show

    try:
        show(tier, follow, url)
    except KeyboardInterrupt:
        raise typer.Exit(0) from None


@tiers.command()
def reload(url: Brain = None) -> None:
    """Have the gateway read its configuration again. It touches only the engines that changed, and
    keeps the old configuration if the new one is wrong.

    \b
    Examples:
      variet tiers reload
    """
    from rich.console import Console

    from cli.tiers import reload as again

    again(url, Console())


def swap(tier: Name, url: Brain = None) -> None:
    """Have a tier loaded, and see how far it is. A brain that sleeps is woken, with BRAIN_MAC set.

    Ctrl-C leaves: the load goes on for whoever else waits for it, else it ends.

    \b
    Examples:
      variet swap fast
    """
    from rich.console import Console

    from cli.tiers_swap import swap as load

    raise typer.Exit(load(tier, url, Console()))


def wake(url: Brain = None) -> None:
    """Wake the brain by Wake-on-LAN (BRAIN_MAC), and wait until it answers.

    \b
    Examples:
      variet wake
    """
    from rich.console import Console

    from cli.tiers_wake import wake_brain

    wake_brain(url, Console())


def _switch(tier: str, what: str, on: bool, url: str | None) -> None:
    from rich.console import Console

    from cli.tiers import switch

    switch(tier, what, on, url, Console())


COMMANDS = (swap, wake)
