"""The command groups: models, runs, threads, approvals; that of the tiers is cli.tiers_group."""

from typing import Annotated

import typer

from cli.options import SETTINGS, AsJson, Decision, Limit, Url


def _group(text: str) -> typer.Typer:
    return typer.Typer(
        help=text, rich_markup_mode=None, no_args_is_help=True, context_settings=SETTINGS
    )


models = _group("The models that this machine can run: list them, pull one.")
runs = _group("What the assistant did: inputs, tool calls, answers, tokens, time per stage.")
threads = _group("Conversations: list, read, delete old ones.")
approvals = _group("Tool calls that wait for a decision.")


@models.command("list")
def list_models(as_json: AsJson = False) -> None:
    """List the models of the catalogue, what each needs, and which are here.

    \b
    Examples:
      variet models list
    """
    from cli.models import list_models as show

    show(as_json)


@models.command()
def pull(
    name: Annotated[
        str, typer.Argument(help="Model to fetch; without it: the choices.", metavar="NAME")
    ] = "",
) -> None:
    """Fetch a model: resumable, and checked against its SHA-256.

    \b
    Examples:
      variet models pull
      variet models pull qwen3-4b
    """
    from cli.models import pull as fetch

    fetch(name)


@runs.command("list")
def list_runs(limit: Limit = 20, url: Url = None) -> None:
    """List runs, newest first.

    \b
    Examples:
      variet runs list --limit 5
    """
    from rich.console import Console

    from cli.records import list_runs as show

    show(limit, url, Console())


@runs.command("show")
def show_run(
    run_id: Annotated[str, typer.Argument(metavar="ID", help="The run.")],
    raw: Annotated[
        bool, typer.Option("--raw", help="Each engine request and raw completion, byte for byte.")
    ] = False,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Show a run's record.

    \b
    Examples:
      variet runs show 0a1b2c3d
      variet runs show 0a1b2c3d --raw
    """
    from rich.console import Console

    from cli.records import show_run as show

    show(run_id, raw, as_json, url, Console())


@threads.command("list")
def list_threads(limit: Limit = 20, url: Url = None) -> None:
    """List threads, newest first.

    \b
    Examples:
      variet threads list
    """
    from rich.console import Console

    from cli.records import list_threads as show

    show(limit, url, Console())


@threads.command("show")
def show_thread(
    thread_id: Annotated[str, typer.Argument(metavar="ID", help="The thread.")], url: Url = None
) -> None:
    """Show a thread's messages.

    \b
    Examples:
      variet threads show 0a1b2c3d
    """
    from rich.console import Console

    from cli.records import show_thread as show

    show(thread_id, url, Console())


@threads.command()
def prune(
    older_than: Annotated[
        float, typer.Option(min=0, metavar="DAYS", help="Delete those idle for so many days.")
    ],
    url: Url = None,
) -> None:
    """Delete threads that nobody used for a while, with their runs.

    \b
    Examples:
      variet threads prune --older-than 90
    """
    from rich.console import Console

    from cli.records import prune_threads

    prune_threads(older_than, url, Console())


@approvals.command("list")
def list_approvals(url: Url = None) -> None:
    """List the tool calls that wait for a decision, each with its exact arguments.

    \b
    Examples:
      variet approvals list
    """
    from rich.console import Console

    from cli.records import list_approvals as show

    show(url, Console())


@approvals.command()
def answer(
    approval_id: Annotated[str, typer.Argument(metavar="ID", help="The approval.")],
    decision: Annotated[Decision, typer.Argument(metavar="approve|reject|edit")],
    arguments: Annotated[
        str | None,
        typer.Option(
            show_default=False, metavar="JSON|@FILE", help="The new arguments, with edit."
        ),
    ] = None,
    comment: Annotated[
        str | None,
        typer.Option(metavar="TEXT", show_default=False, help="A word to the assistant."),
    ] = None,
    url: Url = None,
) -> None:
    """Answer an approval, and see how the run goes on.

    \b
    Examples:
      variet approvals answer 0a1b2c3d approve
      variet approvals answer 0a1b2c3d reject --comment "not on this map"
      variet approvals answer 0a1b2c3d edit --arguments '{"path": "notes.md"}'
    """
    from rich.console import Console

    from cli.records import answer_approval

    raise typer.Exit(answer_approval(approval_id, decision, arguments, comment, url, Console()))
