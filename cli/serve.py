"""`variet run`: the whole stack in the foreground."""

from pathlib import Path

from rich.console import Console

from cli.backup import unfinished
from cli.client import Client
from cli.show import line
from cli.stack import Running, Stack
from cli.supervise import running, settings_for


def run(state_dir: Path | None, port: int | None) -> None:
    """Serve until Ctrl-C, SIGTERM, or an error of the stack."""
    unfinished.refuse()
    console = Console()
    settings = settings_for(state_dir, port)
    stack = Stack(settings)
    line(console, "Starting Variet …", "dim")
    stopped = False
    try:
        with running(stack) as served:
            up = served.stack
            documents = settings.workspace / "docs"
            indexing = _index(up, documents)
            line(console, f"Variet is ready at {up.url} ({up.seconds:.1f} s).", "bold green")
            line(console, f"model     {up.model.sentence}")
            if up.withheld:
                line(
                    console,
                    f"withheld  {', '.join(up.withheld)}: this model was not evaluated with",
                )
            line(console, f"state     {settings.state_dir}")
            line(console, f"files     {settings.workspace}")
            line(console, f"log       {stack.log_file}")
            if indexing:
                line(console, f"documents {documents} is being indexed")
            line(
                console,
                "In another terminal: .venv/bin/variet chat. Ctrl-C stops everything.",
                "dim",
            )
            served.wait()
    except KeyboardInterrupt:
        stopped = True
    if stopped:
        line(console, "Stopped.", "dim")


def _index(up: Running, docs: Path) -> bool:
    """Queue the workspace's documents; those that have not changed cost nothing."""
    if not docs.is_dir():
        return False
    with Client(up.url, up.key) as client:
        client.post("/ingest", {"path": str(docs.resolve())})
    return True
