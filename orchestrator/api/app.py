"""The FastAPI application: routes, gate and errors around an orchestrator."""

from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse, RedirectResponse

from orchestrator.api import approvals, chat, errors, health, knowledge, openai, threads, tools
from orchestrator.api.auth import Gate, load_keys
from orchestrator.assembly import Orchestrator

PAGE = Path(__file__).with_name("page.html")
PAGE_HEADERS = {
    "content-security-policy": "default-src 'self'; script-src 'unsafe-inline';"
    " style-src 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


def create_app(orchestrator: Orchestrator) -> FastAPI:
    """The application over an orchestrator that has been started."""
    app = FastAPI(title="Variet orchestrator", version="0.1.0", docs_url=None, redoc_url=None)
    app.state.orchestrator = orchestrator
    errors.install(app)
    for part in (chat, approvals, threads, tools, knowledge, health):
        app.include_router(part.router, responses=errors.ERRORS)
    app.include_router(openai.router, responses=errors.OPENAI_ERRORS)

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(PAGE, headers=PAGE_HEADERS)

    # FastAPI's own pages of this name take their scripts from the internet.
    @app.get("/docs", include_in_schema=False)
    async def docs() -> RedirectResponse:
        return RedirectResponse("/#api")

    settings = orchestrator.settings
    app.add_middleware(Gate, keys=load_keys(settings), loopback=settings.loopback)
    return app
