"""The commands. Each body imports its own module, so that --help costs next to nothing."""

import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from cli import __version__, groups, operating, tiers_group
from cli.options import SETTINGS, AsJson, Collection, Thread, TierOption, Url

app = typer.Typer(
    name="variet",
    help=(
        "A self-hosted AI assistant: ask it, see what it does, approve what it changes.\n\n"
        "\b\n"
        "Begin with:\n"
        "  variet demo          everything at once, on this machine, offline\n"
        "  variet run           start the stack here; Ctrl-C stops it\n"
        "  variet chat          talk to it, from another terminal\n"
        "  variet init          give this host its role among two: brain or hands\n"
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
app.add_typer(tiers_group.tiers, name="tiers")


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


for command in (*tiers_group.COMMANDS, *operating.COMMANDS):
    app.command()(command)


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
