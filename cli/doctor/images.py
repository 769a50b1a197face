"""Whether the images are here that engines are made of."""

from cli.doctor.finding import Finding, failure, ok, warning
from cli.host.command import Runner
from contracts.broker import EngineImage
from contracts.broker_settings import load_broker_settings
from models.images import engine_image

PROFILES: dict[EngineImage, frozenset[str]] = {
    "llamacpp": frozenset({"llamacpp"}),
    "vllm": frozenset({"vllm"}),
    "tei": frozenset({"embeddings", "rerank"}),
}


def engine_images(selected: frozenset[str]) -> list[str]:
    """Those that the profiles choose, as the broker names them. Raises SettingsError."""
    settings = load_broker_settings(compose_project_name="variet-brain")
    return [
        engine_image(
            kind, getattr(settings, f"{kind}_variant"), getattr(settings, f"{kind}_image")
        ).name
        for kind, names in PROFILES.items()
        if names & selected
    ]


def check_images(run: Runner, names: list[str]) -> Finding:
    if not names:
        return warning(
            "images",
            "COMPOSE_PROFILES chooses no engine: nothing but the gateway is fetched.",
            "Run: variet init",
        )
    told = run(("docker", "image", "inspect", "--format", "{{.Id}}", *names))
    if told.ok:
        return ok("images", ", ".join(names))
    missing = [name for name in names if name in told.error]
    if not missing:
        said = told.error.strip() or "Docker does not answer"
        return failure("images", f"{said}.", "Start Docker: sudo systemctl start docker")
    return warning("images", f"Not here: {', '.join(missing)}.", "Fetch them: make pull")
