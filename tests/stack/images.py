"""Base images and third-party images, made here of Debian packages: no registry is asked.

Each Debian is made once and kept in ~/.cache/variet; delete the folder to have newer packages.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

from tests.stack.docker import docker, run

FOLDER = Path(__file__).parent / "recipes"
RECIPE = FOLDER / "rootfs.sh"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "variet/rootfs"
PYTHON, DEBIAN = "variet-test/python", "variet-test/debian"
SUITES = {
    PYTHON: ("bookworm", "python3", "python3-venv"),
    DEBIAN: ("forky", "llama.cpp-tools", "curl"),
}
# How pip in a build finds an index is a matter of the machine, as on the machine itself.
PIP = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST")


def make_bases() -> None:
    """Both Debians as images, side by side."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(len(SUITES)) as pool:
        list(pool.map(_base, SUITES))


def make_others(orchestrator: str) -> None:
    """llama-server, PostgreSQL and an embeddings server; `orchestrator` is our image."""
    arguments = {"DEBIAN": DEBIAN, "PYTHON": PYTHON, "ORCHESTRATOR": orchestrator}
    given = [
        word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")
    ]
    for target in ("llama-server", "postgres", "embeddings"):
        tag = f"variet-test/{target}"
        docker("buildx", "build", "--load", *given, "--target", target, "--tag", tag, str(FOLDER))


def _base(tag: str) -> None:
    suite, *packages = SUITES[tag]
    recipe = sha256(RECIPE.read_bytes() + " ".join(packages).encode()).hexdigest()[:12]
    archive = CACHE / f"{suite}-{recipe}.tar"
    if not archive.exists():
        run(str(RECIPE), suite, str(archive), *packages)
    environment = {"PIP_CERT": "/etc/ssl/certs/ca-certificates.crt"}
    environment |= {name: os.environ[name] for name in PIP if name in os.environ}
    changes = [
        word for name, value in environment.items() for word in ("-c", f"ENV {name}={value}")
    ]
    docker("import", *changes, str(archive), tag)
