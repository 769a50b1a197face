"""Command lines of engines: what the gateway says is let through, and no flag that opens files or
code of elsewhere."""

import json
from pathlib import Path

import pytest
from docker import APIClient  # type: ignore[import-untyped]

from contracts.broker import EngineImage
from models.manifest import load_manifest, load_preset, preset_names
from models.store import Store
from services.broker.body import read_create
from services.broker.creation import engine_body
from services.broker.refusal import Refusal
from services.broker.routes import read_call
from services.broker.words import check_words
from services.gateway.catalogue import catalogue
from services.gateway.engines.commands import Hub
from services.gateway.engines.container_body import ContainerPlace, create_arguments, new_name
from tests.services.broker.bodies import HOST
from tests.services.broker.safety import breaches

REFUSED: list[tuple[EngineImage, list[str]]] = [
    ("llamacpp", ["--path", "/models"]),
    ("llamacpp", ["--tools", "all"]),
    ("llamacpp", ["--agent"]),
    ("llamacpp", ["--public", "x"]),
    ("llamacpp", ["--mcp-servers-config", "/models/x"]),
    ("llamacpp", ["--mcp_servers_json", "{}"]),
    ("llamacpp", ["--api-key-file", "/models/x"]),
    ("llamacpp", ["--api_key_file", "/models/x"]),
    ("llamacpp", ["--log-file", "x"]),
    ("llamacpp", ["--rpc", "198.51.100.1:50052"]),
    ("llamacpp", ["-hf", "x/y"]),
    ("llamacpp", ["--hf-repo", "x/y"]),
    ("llamacpp", ["--hf-repo=x/y"]),
    ("llamacpp", ["--model-url", "https://198.51.100.1/x"]),
    ("llamacpp", ["-mu", "https://198.51.100.1/x"]),
    ("llamacpp", ["--docker-repo", "x"]),
    ("llamacpp", ["--gpt-oss-20b-default"]),
    ("llamacpp", ["--models-dir", "/models"]),
    ("llamacpp", ["--media-path", "/models"]),
    ("llamacpp", ["--model", "/etc/passwd"]),
    ("llamacpp", ["--model", "nano.gguf"]),
    ("llamacpp", ["--model", "/models/../etc/passwd"]),
    ("llamacpp", ["--model", "/models//etc"]),
    ("llamacpp", ["--model=/modelsx/nano.gguf"]),
    ("llamacpp", ["-m", "/proc/self/environ"]),
    ("llamacpp", ["--model"]),
    ("llamacpp", ["--lora", "/tmp/x.gguf"]),
    ("llamacpp", ["--lora", "/models/x.gguf,/tmp/y.gguf"]),
    ("llamacpp", ["--mmproj", "x.gguf"]),
    ("llamacpp", ["--chat-template-file", "/etc/passwd"]),
    ("llamacpp", ["--slot-save-path", "/tmp"]),
    ("llamacpp", ["--slot-save-path", "/models"]),
    ("llamacpp", ["--slot-save-path", "/slots/../tmp"]),
    ("llamacpp", ["--ssl-key-file", "/models/x"]),
    ("llamacpp", ["--alias", "/etc/passwd"]),
    ("llamacpp", ["file:///etc/passwd"]),
    ("vllm", ["m", "--trust-remote-code"]),
    ("vllm", ["m", "--trust_remote_code"]),
    ("vllm", ["m", "--trust"]),
    ("vllm", ["m", "--trust-remote-code=true"]),
    ("vllm", ["m", "--allowed-local-media-path", "/"]),
    ("vllm", ["m", "--chat-template", "/etc/passwd"]),
    ("vllm", ["m", "--chat-template=/etc/passwd"]),
    ("vllm", ["m", "--config", "x.yaml"]),
    ("vllm", ["m", "--tool-parser-plugin", "x.py"]),
    ("vllm", ["m", "--reasoning-parser-plug", "x.py"]),
    ("vllm", ["m", "--middleware", "x"]),
    ("vllm", ["m", "--worker-cls", "x.y"]),
    ("vllm", ["m", "--kv-transfer-config.kv_connector", "x"]),
    ("vllm", ["m", "--lora-modules", "a=/etc"]),
    ("vllm", ["/etc"]),
    ("vllm", ["../../etc"]),
    ("tei", ["--uds-path", "/data/x"]),
    ("tei", ["--otlp-endpoint", "http://198.51.100.1"]),
    ("tei", ["--model-id", "/etc"]),
]


@pytest.mark.parametrize(("kind", "words"), REFUSED)
def test_a_flag_that_opens_more_is_refused(kind: EngineImage, words: list[str]) -> None:
    with pytest.raises(Refusal, match=r"^Cmd: "):
        check_words(kind, words)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("llamacpp", ["-m", "/models/a/b.gguf", "--lora", "/models/x.gguf,/models/y.gguf"]),
        ("llamacpp", ["--chat-template-kwargs", '{"a": "/b"}', "--temp", "-1", "-ngl", "99"]),
        ("llamacpp", ["--override-tensor", r"blk\.[0-9]+\.ffn=CPU", "--slot-save-path", "/slots"]),
        ("vllm", ["Qwen/Qwen3-0.6B", "--revision", "main", "--tool-call-parser", "hermes"]),
        ("vllm", ["m", "--chat-template", "/models/x.jinja", "--enable-auto-tool-choice"]),
        ("vllm", ["m", "--hf-overrides", "{}", "--model-loader-extra-config", "{}"]),
        ("tei", ["--json-output", "--pooling", "cls"]),
    ],
)
def test_other_flags_are_let_through(kind: EngineImage, words: list[str]) -> None:
    check_words(kind, words)


@pytest.mark.parametrize("name", preset_names())
def test_every_container_of_every_preset_is_allowed_as_the_gateway_makes_it(
    name: str, tmp_path: Path
) -> None:
    api = APIClient(base_url=f"unix://{tmp_path}/none", version="1.44")
    preset = load_preset(name)
    for slots in (None, Path("/slots")):
        place = ContainerPlace(HOST, "key", Store(tmp_path), Hub("token", "https://h"), 0.9, slots)
        for spec in catalogue(preset, load_manifest(), "balanced").engines.values():
            made = create_arguments(api, spec, spec.context, new_name(spec, HOST), place)
            call = read_call("POST", f"/containers/create?name={made.pop('name')}", HOST)
            told = json.dumps(api.create_container_config(**made)).encode()
            assert breaches(engine_body(read_create(told), HOST), call.query["name"], HOST) == []
    api.close()
