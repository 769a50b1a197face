"""The commands. Each body imports its own module, so that --help costs next to nothing."""

import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from cli import __version__, groups
from cli.options import (
    SETTINGS,
    AsJson,
    Collection,
    Role,
    RoleOption,
    Thread,
    Tier,
    TierOption,
    Url,
)

app = typer.Typer(
    name="variet",
    help=(
        "A self-hosted AI assistant: ask it, see what it does, approve what it changes.\n\n"
        "\b\n"
        "Begin with:\n"
        "  variet demo          everything at once, on this machine, offline\n"
        "  variet run           start the stack here; Ctrl-C stops it\n"
        "  variet chat          talk to it, from another terminal\n"
        "  variet doctor        what is missing, and how to mend it\n"
    ),
    context_settings=SETTINGS,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    no_args_is_help=True,
)


app.add_typer(groups.models, name="models")
app.add_typer(groups.runs, name="runs")
app.add_typer(groups.threads, name="threads")
app.add_typer(groups.approvals, name="approvals")


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"variet {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def demo(
    question: Annotated[str, typer.Argument(help="What to ask.", metavar="QUESTION")] = "",
) -> None:
    """Ask one question with everything on this machine, and show all that happens.

    Starts engine, index and orchestrator on free ports with a state folder of their own, indexes
    the sample documents, asks over HTTP, prints the run as it happens, and stops everything.

    \b
    Examples:
      variet demo
      variet demo "Which log lines mention knock?"
    """
    from cli.demo import demo as play

    raise typer.Exit(play(question))


@app.command()
def run(
    port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            metavar="N",
            show_default=False,
            help="0 takes a free one. [default: $PORT or 8001]",
        ),
    ] = None,
    state_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            show_default=False,
            help="State folder. [default: $STATE_DIR or data/state]",
        ),
    ] = None,
) -> None:
    """Start the whole stack in the foreground; Ctrl-C stops all of it.

    On the first start the samples are copied to the workspace, STATE_DIR/workspace.

    \b
    Examples:
      variet run
      variet run --port 9000 --state-dir ~/variet
    """
    from cli.serve import run as serve

    serve(state_dir, port)


@app.command()
def ask(
    question: Annotated[
        str, typer.Argument(metavar="QUESTION", help="- reads it from standard input.")
    ],
    tier: TierOption = None,
    thread: Thread = None,
    schema: Annotated[
        str | None,
        typer.Option(
            metavar="report|FILE",
            show_default=False,
            help="Answer also as JSON: a report, or what the JSON Schema in FILE says.",
        ),
    ] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Ask one question. The answer goes to standard output, all else to standard error.

    Exit status: 0 completed, 1 failed or stopped, 3 an approval is waiting for an answer.

    \b
    Examples:
      variet ask "Summarize anomalies in boost_target map"
      variet ask "Which maps are there?" --json
      variet ask "Summarize anomalies in ve_table" --schema report
      variet ask - < question.txt
    """
    from cli.ask import ask as put

    raise typer.Exit(put(question, tier, thread, schema, url, as_json))


@app.command()
def chat(thread: Thread = None, tier: TierOption = None, url: Url = None) -> None:
    """Talk to the assistant. It streams, and asks before it changes anything.

    While it answers, /stop and Ctrl-C stop it. /tier, /thread, /help and /quit at any time.

    \b
    Examples:
      variet chat
      variet chat --thread 0a1b2c3d
    """
    from cli.chat import chat as talk

    talk(url, thread, tier)


@app.command()
def init(
    role: Annotated[
        Role | None, typer.Option(metavar="ROLE", show_default=False, help="brain or hands.")
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            show_default=False,
            help="The brain's hardware, on either host: a file of models/hosts.",
        ),
    ] = None,
    tier: Annotated[
        Tier | None,
        typer.Option(
            metavar="TIER",
            show_default=False,
            help="Tier that the brain serves. [default: balanced]",
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
            help="Its embeddings server. [default: http://BRAIN_IP:8081/v1]",
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
            help="Brain: embeddings,rerank. Hands: qdrant,langfuse,searxng. Or none.",
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


@app.command()
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


@app.command()
def smoke(url: Url = None, as_json: AsJson = False) -> None:
    """Try everything that this host's stack promises, once, and print a table.

    On the brain: models, a chat, an embedding, reranking, the key, and every card under load. On
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


@app.command()
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


@app.command()
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


@app.command()
def ingest(
    path: Annotated[
        Path | None,
        typer.Argument(metavar="PATH", help="File or folder to index.", show_default=False),
    ] = None,
    collection: Collection = "docs",
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Embed anew what the collection holds.")
    ] = False,
    url: Url = None,
) -> None:
    """Index documents, so that the assistant can search and cite them.

    \b
    Examples:
      variet ingest docs/
      variet ingest manual.md --collection manuals
      variet ingest --rebuild
    """
    from rich.console import Console

    from cli.ingest import ingest as put

    put(path, collection, rebuild, url, Console())


@app.command()
def search(
    query: Annotated[str, typer.Argument(metavar="QUERY", help="What to look for.")],
    limit: Annotated[int, typer.Option(min=1, max=50, metavar="N", help="How many at most.")] = 5,
    collection: Collection = "docs",
    url: Url = None,
) -> None:
    """Search the indexed documents.

    \b
    Examples:
      variet search "how is boost limited at altitude?"
    """
    from rich.console import Console

    from cli.ingest import search as find

    find(query, limit, collection, url, Console())


def main() -> NoReturn:
    """Run a command; an error of Variet's own is two lines: what, and what to do."""
    try:
        app(prog_name="variet")
    except Exception as error:
        # boundary: the tree of errors is imported only when there is one
        from contracts.errors import VarietError

        if not isinstance(error, VarietError):
            raise
        from cli.text import exact

        typer.echo(f"error: {exact(error.message)}\n  {exact(error.remedy)}", err=True)
        sys.exit(1)
    sys.exit(0)
