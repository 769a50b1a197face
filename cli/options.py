"""Options that several commands share."""

from typing import Annotated, Literal

import typer

Tier = Literal["fast", "balanced", "deep"]
Role = Literal["brain", "hands"]
Decision = Literal["approve", "reject", "edit"]
SETTINGS = {"help_option_names": ["-h", "--help"]}

Url = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Address of the orchestrator. [default: $VARIET_URL, else this machine's PORT]",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Limit = Annotated[int, typer.Option(min=1, max=200, metavar="N", help="How many at most.")]
Thread = Annotated[
    str | None, typer.Option(metavar="ID", help="Go on with this thread.", show_default=False)
]
TierOption = Annotated[
    Tier | None, typer.Option(help="fast, balanced or deep.", metavar="TIER", show_default=False)
]
Collection = Annotated[str, typer.Option(metavar="NAME", help="Of documents.")]
RoleOption = Annotated[
    Role | None,
    typer.Option(
        help="brain or hands. [default: $VARIET_ROLE; without one, the embedded stack]",
        metavar="ROLE",
        show_default=False,
    ),
]
