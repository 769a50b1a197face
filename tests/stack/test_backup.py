"""The workstation's backup, put back onto a host that lost everything but the repository."""

import shutil
from pathlib import Path

import httpx2
import pytest

from tests.stack.docker import docker, run
from tests.stack.hosts import Host, client

pytestmark = pytest.mark.stack

WRITE = {"operation": "write", "path": "approved-after-restore.txt", "content": "approved"}


def sql(hands: Host, database: str, text: str) -> str:
    words = ("psql", "-U", "postgres", "-d", database, "-qAtc", text)
    return hands.compose("exec", "-T", "postgres", *words).strip()


def indexed(api: httpx2.Client) -> list[str]:
    found = api.get("/search", params={"q": "quillwort"}).json()["results"]
    return [one["source"] for one in found if one["source"] == "text:plants"]


def lose_everything(hands: Host) -> None:
    """Containers, volumes, the state on the host and `.env`."""
    hands.destroy()
    values = hands.values
    if device := values.get("STACK_STATE_DEVICE"):
        run("mkfs.ext4", "-q", "-F", "-E", "root_owner=10001:10001", device)
    shutil.rmtree(values["STATE_DIR"])
    project = values["COMPOSE_PROJECT_NAME"]
    assert docker("volume", "ls", "-q", "--filter", f"name={project}_") == ""
    hands.env_file.unlink()


def test_destroyed_volumes_state_and_settings_come_back(
    hands: Host, api: httpx2.Client, tmp_path: Path
) -> None:
    archive = tmp_path / "backup.tar"
    job = api.post("/ingest", json={"text": "The quillwort grows in ponds.", "source": "plants"})
    while api.get(f"/ingest/jobs/{job.json()['job_id']}").json()["status"] in ("queued", "running"):
        pass
    assert indexed(api)
    body = {"name": "file_operations", "arguments": WRITE}
    asked = api.post("/tools/execute", json=body).json()["approval"]
    sql(hands, "langfuse", "CREATE TABLE kept (x int); INSERT INTO kept VALUES (7)")
    settings = hands.env_file.read_text("utf-8")

    said = hands.make("backup", f"FILE={archive}")
    assert "not in it" in said
    hands.wait_until_healthy()
    # What came after the backup is what a restore takes away.
    sql(hands, "langfuse", "DELETE FROM kept")
    lose_everything(hands)
    hands.make("restore", f"FILE={archive}")

    assert hands.env_file.read_text("utf-8") == settings
    assert hands.env_file.stat().st_mode & 0o777 == 0o600
    hands.wait_until_healthy()
    assert sql(hands, "langfuse", "SELECT x FROM kept") == "7"
    with client(hands) as back:
        assert indexed(back)
        pending = [one["id"] for one in back.get("/approvals").json()["items"]]
        assert asked["id"] in pending
        decision = {"decision": "approve", "wait": True}
        decided = back.post(f"/approvals/{asked['id']}", json=decision).json()
        assert decided["status"] == "completed", decided
        written = Path(hands.values["WORKSPACE_DIR"]) / WRITE["path"]
        assert written.read_text("utf-8") == "approved"
        back.delete("/ingest", params={"source": "text:plants"})
    sql(hands, "langfuse", "DROP TABLE kept")
    written.unlink()


def test_a_damaged_backup_is_refused_while_the_stack_goes_on(
    hands: Host, api: httpx2.Client, tmp_path: Path
) -> None:
    archive = tmp_path / "backup.tar"
    hands.make("backup", f"FILE={archive}")
    hands.wait_until_healthy()
    before = {name: hands.container(name) for name in hands.services()}
    text = archive.read_bytes()
    archive.write_bytes(text[: len(text) // 2])
    said = hands.make("restore", f"FILE={archive}", check=False)
    assert "Nothing was changed" in said
    assert {name: hands.container(name) for name in hands.services()} == before
    assert api.get("/ready").status_code == 200
