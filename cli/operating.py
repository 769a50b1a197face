"""The commands that operate one host of two. Each body imports its own module."""

from pathlib import Path
from typing import Annotated

import typer

from cli.options import AsJson, Role, RoleOption, Tier, Url


def init(
    role: Annotated[
        Role | None, typer.Option(metavar="ROLE", show_default=False, help="brain or hands.")
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            show_default=False,
            help="The brain's hardware, on either host: a file of models/hosts. Hands: or none.",
        ),
    ] = None,
    tier: Annotated[
        Tier | None,
        typer.Option(
            metavar="TIER",
            show_default=False,
            help="Tier that is loaded at the start. [default: balanced]",
        ),
    ] = None,
    lan_ip: Annotated[
        str | None,
        typer.Option(metavar="IP", show_default=False, help="This host's address on the LAN."),
    ] = None,
    brain_ip: Annotated[
        str | None, typer.Option(metavar="IP", show_default=False, help="The brain's address.")
    ] = None,
    brain_url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            show_default=False,
            help="Its OpenAI server. [default: http://BRAIN_IP:8000/v1]",
        ),
    ] = None,
    embed_url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            show_default=False,
            help="Another server of embeddings. [default: the brain]",
        ),
    ] = None,
    brain_key: Annotated[
        str | None,
        typer.Option(
            metavar="KEY",
            show_default=False,
            help="Its key, as it prints it; - reads it from standard input.",
        ),
    ] = None,
    hands_ip: Annotated[
        str | None,
        typer.Option(
            metavar="IP", show_default=False, help="The workstation's address, for the firewall."
        ),
    ] = None,
    profiles: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            show_default=False,
            help="Hands: qdrant,langfuse,searxng. Brain: embeddings,rerank. Or none.",
        ),
    ] = None,
    workspace: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            show_default=False,
            help="Folder that tools work in. [default: data/state/workspace]",
        ),
    ] = None,
    env_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default=False,
            help="File to write. [default: $VARIET_ENV_FILE or .env]",
        ),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Take what is proposed, and ask nothing.")
    ] = False,
    show_key: Annotated[
        bool,
        typer.Option("--show-key", help="Print the brain's key even where it is no terminal."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Give this host its role: look at it, ask what is missing, write .env with its secrets.

    The brain has the cards and serves models; the hands are where you work. A second time with the
    same answers changes nothing; secrets that are set are never changed, lines of your own stay.

    Exit status: 1 if nothing was written, because this host cannot be that.

    \b
    Examples:
      variet init
      variet init --role brain --preset 2x3060 --lan-ip 192.168.1.10 --hands-ip 192.168.1.20
      variet init --role hands --preset 2x3060 --brain-ip 192.168.1.10 --brain-key KEY
      variet init --tier deep
      variet init --profiles qdrant
    """
    from cli.init import Given
    from cli.init import init as give_role

    given = Given(
        role=role,
        preset=preset,
        tier=tier,
        lan_ip=lan_ip,
        brain_ip=brain_ip,
        brain_url=brain_url,
        embed_url=embed_url,
        brain_key=brain_key,
        hands_ip=hands_ip,
        profiles=profiles,
        workspace=workspace,
        env_file=env_file,
        yes=yes,
        show_key=show_key,
        as_json=as_json,
    )
    raise typer.Exit(give_role(given))


def doctor(role: RoleOption = None, url: Url = None, as_json: AsJson = False) -> None:
    """Look at each part of this host and say what to do about it.

    Exit status: 1 if something is broken, 0 otherwise.

    \b
    Examples:
      variet doctor
      variet doctor --role brain
      variet doctor --json
    """
    from cli.doctor import doctor as look

    raise typer.Exit(look(as_json, url, role))


def smoke(url: Url = None, as_json: AsJson = False) -> None:
    """Try everything that this host's stack promises, once, and print a table.

    On the brain: a swap through all tiers, a stream, an embedding, reranking, the keys, and every
    card under load. On
    the workstation: containers, the brain, a tool's way through the model, retrieval with a
    citation, an approval, the trace in Langfuse. What it makes it takes away again.

    Exit status: 1 if a row failed. A row is off where its profile is not selected.

    \b
    Examples:
      variet smoke
      variet smoke --json
    """
    from cli.smoke.command import smoke as test

    raise typer.Exit(test(as_json, url))


def backup(
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE",
            show_default=False,
            help="Archive to write. [default: variet-backup-DATE.tar]",
        ),
    ] = None,
    without_secrets: Annotated[
        bool, typer.Option("--without-secrets", help="Leave .env out.")
    ] = False,
) -> None:
    """Write all that this host would miss into one archive: state, databases, index, settings.

    The embedded stack may go on meanwhile. On the workstation the orchestrator lets its runs end,
    is stopped for the time of the copy, and started again.

    \b
    Examples:
      variet backup
      variet backup /mnt/usb/variet.tar
      variet backup --without-secrets
    """
    from rich.console import Console

    from cli.backup.command import backup as save

    save(file, not without_secrets, Console())


def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Archive of variet backup.")],
) -> None:
    """Put a backup in the place of what this host has now.

    The archive is verified first, part by part. What is replaced is kept aside until everything
    is in place, and comes back if anything fails. A .env that is there is kept.

    \b
    Examples:
      variet restore variet-backup-20261121-093000.tar
    """
    from rich.console import Console

    from cli.backup.command import restore as put_back

    put_back(file, Console())


COMMANDS = (init, doctor, smoke, backup, restore)
