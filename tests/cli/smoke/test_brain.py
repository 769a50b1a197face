"""Each row of the brain's table: what makes it ok, and what does not."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli.smoke import brain as rows
from cli.smoke import gpu
from tests.cli.conftest import Variet
from tests.cli.smoke.conftest import Smoke
from tests.support.scripted_brain import ADMIN_KEY, KEY, Brain

RANKED_WRONG = {"results": [{"index": 0, "relevance_score": 2}, {"index": 1, "relevance_score": 1}]}
Write = Callable[..., Path]


def test_a_brain_that_does_its_work_is_well(of_brain: Write, smoke: Smoke, brain: Brain) -> None:
    of_brain()
    found = smoke()
    assert found["status"] == 0, found
    assert {name: row["status"] for name, row in found.items() if name != "status"} == {
        "models": "ok", "swap": "ok", "chat": "ok", "embedding": "ok", "rerank": "off", "key": "ok",
        "gpu": "off",
    }  # fmt: skip
    assert found["models"]["detail"] == "fast, balanced, deep"
    assert found["chat"]["detail"].startswith("3 tokens, ")
    assert "tokens/s, first token after" in found["chat"]["detail"]
    assert found["embedding"]["detail"] == "3 dimensions by bge-small-en-v1.5"
    assert found["rerank"]["detail"] == "the preset cpu reranks nothing"
    assert "preset cpu" in found["gpu"]["detail"]
    asked = dict(brain.seen)
    assert asked["/v1/embeddings"]["model"] == "bge-small-en-v1.5"


def test_every_tier_answers_once_and_the_one_that_is_loaded_comes_last(
    of_brain: Write, smoke: Smoke, brain: Brain
) -> None:
    of_brain(ENGINE_TIER="fast")
    found = smoke()
    asked = [b["model"] for p, b in brain.seen if p.endswith("/completions") and "stream" not in b]
    assert asked[:3] == ["balanced", "deep", "fast"]
    assert re.search(r"deep \d+\.\d s \(model-of-deep\)", found["swap"]["detail"])


def test_a_preset_that_reranks_is_tried(of_brain: Write, smoke: Smoke, brain: Brain) -> None:
    of_brain(VARIET_PRESET="reranks", TEI_VARIANT="tei-cpu")
    found = smoke()
    assert found["rerank"]["detail"] == "scores 1.000 and 0.000 by bge-reranker-v2-m3-hub"


@pytest.mark.parametrize(
    ("spoil", "row", "told"),
    [
        ({"answers": {"/v1/models": (200, {"data": []})}}, "models", "does not list the tier fast"),
        ({"answers": {"/v1/models": (200, "hello")}}, "models", "answered hello"),
        ({"answers": {"/v1/models": (500, {"x": 1})}}, "models", "answered 500"),
        ({"words": []}, "chat", "streamed no text"),
        ({"broken": True}, "chat", "broke off: {'message': 'out of memory'}"),
        ({"answers": {"/v1/embeddings": (200, {"data": []})}}, "embedding", "0 vectors"),
        ({"vectors": {text: [0.0, 0.0] for text in rows.TEXTS}}, "embedding", "zeros"),
        ({"vectors": {text: [1.0, 0.0] for text in rows.TEXTS}}, "embedding", "the same for two"),
        ({"vectors": {rows.TEXTS[0]: [1.0]}}, "embedding", "2 vectors of lengths"),
        ({"answers": {"/v1/rerank": (200, RANKED_WRONG)}}, "rerank", "irrelevant text first"),
        ({"answers": {"/v1/rerank": (200, [])}}, "rerank", "answered []"),
        ({"open": {"/v1/chat/completions"}}, "key", "gateway at"),
        ({"open": {"/tiers/smoke--nobody/unload"}}, "key", "without a key"),
    ],
)
def test_what_is_wrong_fails_its_row_alone(
    of_brain: Write, smoke: Smoke, brain: Brain, spoil: dict[str, Any], row: str, told: str
) -> None:
    of_brain(VARIET_PRESET="reranks", NVIDIA_VISIBLE_DEVICES_LLM="0")
    for name, value in spoil.items():
        setattr(brain, name, value)
    found = smoke()
    assert found["status"] == 1
    failed = [n for n, r in found.items() if n != "status" and r["status"] == "failed"]
    # There is no card here.
    assert [name for name in failed if name != "gpu"] == [row]
    assert told in found[row]["detail"]
    assert found[row]["remedy"]


def test_a_tier_that_cannot_be_loaded_fails_the_swap(
    of_brain: Write, smoke: Smoke, brain: Brain
) -> None:
    of_brain()
    error = {"error": {"message": "deep needs 9,000 MiB, and 4,000 are free."}}
    brain.answers["/v1/chat/completions"] = (503, error)
    found = smoke()
    assert found["swap"]["status"] == "failed"
    assert "answered 503" in found["swap"]["detail"]
    assert "9,000 MiB" in found["swap"]["detail"]


def test_a_user_who_may_unload_models_is_found(of_brain: Write, smoke: Smoke, brain: Brain) -> None:
    of_brain(GATEWAY_API_KEY=ADMIN_KEY)
    found = smoke()
    assert "GATEWAY_API_KEY may unload models" in found["key"]["detail"]
    assert "GATEWAY_ADMIN_KEY" in found["key"]["remedy"]


def test_a_wrong_key_is_said_with_its_setting(of_brain: Write, smoke: Smoke) -> None:
    of_brain(GATEWAY_API_KEY="another-key-0123456789")
    found = smoke()
    assert "refused our key (401)" in found["models"]["detail"]
    assert "GATEWAY_API_KEY" in found["models"]["remedy"]


def test_a_stack_that_is_down_is_said(of_brain: Write, smoke: Smoke) -> None:
    of_brain(GATEWAY_PORT=9)
    found = smoke()
    assert "does not answer at http://127.0.0.1:9/v1" in found["chat"]["detail"]
    assert "make ps" in found["chat"]["remedy"]
    assert "GATEWAY_PORT" in found["chat"]["remedy"]


SMI = """
import os
tick = sys.argv[0] + ".ticks"
count = os.path.getsize(tick) if os.path.exists(tick) else 0
open(tick, "a").write("x")
rows = json.load(open(sys.argv[0] + ".json"))
for row in rows:
    busy = row["busy"][min(count, len(row["busy"]) - 1)]
    print(f'{row["index"]}, GPU-{row["index"]}abcdef, {row["name"]}, {busy}, {row["used"]}, 12288')
"""


@pytest.fixture
def cards(
    programs: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., None]:
    monkeypatch.setattr(rows, "LOAD_S", 0.0)
    monkeypatch.setattr(gpu, "SAMPLE_EVERY_S", 0.01)
    path = programs("nvidia-smi", SMI)

    def there(*found: tuple[int, list[object], object]) -> None:
        given = [{"index": i, "name": "RTX 3060", "busy": b, "used": u} for i, b, u in found]
        Path(f"{path}.json").write_text(json.dumps(given))

    return there


def test_every_configured_card_is_seen_at_work(
    of_brain: Write, smoke: Smoke, cards: Callable[..., None], brain: Brain
) -> None:
    cards((0, [0, 97], 9000), (1, [0, 0, 41], 8000), (2, [0], 10))
    of_brain(
        VARIET_PRESET="reranks", TEI_VARIANT="tei-86",
        NVIDIA_VISIBLE_DEVICES_LLM="0,1", NVIDIA_VISIBLE_DEVICES_EMB="GPU-1abc",
    )  # fmt: skip
    found = smoke()
    assert found["gpu"]["status"] == "ok", found["gpu"]
    assert "0 RTX 3060: 97 % busy, 9000 of 12288 MiB" in found["gpu"]["detail"]
    assert "1 RTX 3060: 41 % busy, 8000 of 12288 MiB" in found["gpu"]["detail"]
    assert "embeddings on GPU-1abc RTX 3060" in found["gpu"]["detail"]
    assert "rerank on GPU-1abc RTX 3060" in found["gpu"]["detail"]
    assert "used by no engine: 2 RTX 3060" in found["gpu"]["detail"]
    batches = [body for path, body in brain.seen if path == "/v1/embeddings"]
    assert max(len(body["input"]) for body in batches) <= 32  # more is too much for TEI


@pytest.mark.parametrize(
    ("there", "told"),
    [
        ([(0, [0], 9000)], "Card 0 (RTX 3060) was idle under load: 0 % busy, 9000 MiB"),
        ([(0, ["[N/A]"], "[N/A]")], "idle under load: ? % busy"),
        ([(0, [9], 400)], "idle under load: 9 % busy"),  # a desktop's share
        ([(1, [99], 9000)], "Card 0 is configured, but the driver sees: 1 (RTX 3060)"),
        ([], "the driver sees: none"),
    ],
)
def test_a_card_that_idles_or_is_not_there_fails(
    of_brain: Write, smoke: Smoke, cards: Callable[..., None], there: list[Any], told: str
) -> None:
    cards(*there)
    of_brain(VARIET_PRESET="2x3060")
    found = smoke()
    assert (found["gpu"]["status"], found["status"]) == ("failed", 1)
    assert told in found["gpu"]["detail"]


def test_an_engine_without_a_card_fails(
    of_brain: Write, smoke: Smoke, cards: Callable[..., None]
) -> None:
    cards((0, [99], 9000))
    of_brain(VARIET_PRESET="2x3060", NVIDIA_VISIBLE_DEVICES_LLM=",")
    assert "no card is configured" in smoke()["gpu"]["detail"]


def test_a_broken_driver_is_said(
    of_brain: Write, smoke: Smoke, programs: Callable[[str, str], Path]
) -> None:
    of_brain(VARIET_PRESET="2x3060", NVIDIA_VISIBLE_DEVICES_LLM="0")
    programs("nvidia-smi", "print('NVIDIA-SMI has failed'); sys.exit(9)")
    assert "NVIDIA-SMI has failed" in smoke()["gpu"]["detail"]


def test_without_a_driver_a_configured_card_fails(
    of_brain: Write, smoke: Smoke, programs: Callable[[str, str], Path]
) -> None:
    of_brain(VARIET_PRESET="2x3060")
    assert "no nvidia-smi" in smoke()["gpu"]["detail"]


def test_the_table_says_what_and_how_to_mend_it(
    of_brain: Write, variet: Variet, brain: Brain, capsys: pytest.CaptureFixture[str]
) -> None:
    of_brain()
    assert variet("smoke") == 0
    assert "brain: all is well" in capsys.readouterr().out
    brain.open = {"/v1/chat/completions"}
    assert variet("smoke") == 1
    out = capsys.readouterr().out
    assert "brain: 1 of 7 failed: key" in out
    assert "make up" in out
    assert KEY not in out


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "is missing: this host has no role yet.\n  Run: variet init"),
        ("PORT=8001\n", "does not set VARIET_ROLE"),
        ("VARIET_ROLE=brain\n", "does not set COMPOSE_FILE"),
        ("VARIET_ROLE=brain\nCOMPOSE_FILE=x\n", "LAN_IP is not set"),
        ("VARIET_ROLE=brain\nCOMPOSE_FILE=x\nLAN_IP=127.0.0.1\n", "VARIET_PRESET is not set"),
    ],
)
def test_a_host_without_a_role_is_told_what_to_do(
    env: Write, variet: Variet, capsys: pytest.CaptureFixture[str], text: str | None, told: str
) -> None:
    path = env()
    path.unlink() if text is None else path.write_text(text)
    assert variet("smoke") == 1
    assert told in capsys.readouterr().err
