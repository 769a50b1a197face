"""Command lines of engines. No flag may open files or code from elsewhere, or send anything out.

A second line behind the container's bounds: whoever wants a flag that is not here still runs in a
container that has nothing but its own folders.
"""

import re
from collections.abc import Mapping

from contracts.broker import EngineImage
from services.broker.kinds import KINDS
from services.broker.refusal import Refusal, shown

MAX_WORDS, MAX_WORD, MAX_ALL = 256, 8_192, 65_536
# llama-server takes _ for -, and the names of `--help` of build 11347 and of others nearby.
LLAMACPP = {
    *("--path", "--public", "--tools", "--tools-runtime", "--agent", "-ag", "--rpc"),
    *("--mcp-servers-config", "--mcp-servers-json", "--ui-mcp-proxy", "--webui-mcp-proxy"),
    *("--ui-config-file", "--webui-config-file", "--api-key-file", "--ssl-key-file"),
    *("--ssl-cert-file", "--log-file", "--log-prompts-dir", "--media-path", "--models-dir"),
    *("--models-preset", "--hf-repo", "-hf", "-hfr", "--hf-file", "-hff", "--hf-token", "-hft"),
    *("--hf-repo-draft", "-hfd", "-hfrd", "--spec-draft-hf", "--hf-repo-v", "-hfv", "-hfrv"),
    *("--hf-file-v", "-hffv", "--model-url", "-mu", "--mmproj-url", "-mmu", "--docker-repo", "-dr"),
    *("--video-ffmpeg-dir", "--grammar-file", "--json-schema-file", "-jf", "--file", "-f"),
    *("--binary-file", "-bf", "--lookup-cache-static", "-lcs", "--lookup-cache-dynamic", "-lcd"),
    *("--prompt-cache", "--system-prompt-file", "-spf"),
}
VLLM = {
    *("--trust-remote-code", "--allowed-local-media-path", "--config", "--middleware"),
    *("--tool-parser-plugin", "--reasoning-parser-plugin", "--io-processor-plugin"),
    *("--logits-processors", "--logits-processor-pattern", "--worker-cls", "--scheduler-cls"),
    *("--worker-extension-cls", "--kv-transfer-config", "--ec-transfer-config", "--ssl-keyfile"),
    *("--ssl-certfile", "--ssl-ca-certs", "--uds", "--log-config-file", "--otlp-traces-endpoint"),
    *("--profiler-config", "--additional-config", "--distributed-executor-backend"),
    *("--data-parallel-address", "--master-addr", "--nnodes"),
}
TEI = {"--uds-path", "--otlp-endpoint", "--otlp-service-name", "--dense-path"}
REFUSED: Mapping[EngineImage, set[str]] = {"llamacpp": LLAMACPP, "vllm": VLLM, "tei": TEI}
# Flags of llama-server whose value is a file, or several: inside the model store.
FILES = {
    *("--model", "-m", "--mmproj", "-mm", "--lora", "--lora-scaled", "--control-vector"),
    *("--control-vector-scaled", "--model-draft", "-md", "--spec-draft-model", "--model-vocoder"),
    *("-mv", "--chat-template-file"),
}
SLOTS = "--slot-save-path"
PATH = re.compile(r"^(file:|~|\.\.?(/|$)|/)|/\.\.(/|$)")


def check_words(kind: EngineImage, words: list[str]) -> None:
    """Raises Refusal that names the word."""
    if len(words) > MAX_WORDS or sum(len(word) for word in words) > MAX_ALL:
        raise Refusal(f"Cmd has more than {MAX_WORDS} words or {MAX_ALL} characters")
    for place, word in enumerate(words):
        if len(word) > MAX_WORD or "\0" in word:
            raise Refusal(f"Cmd: the word {shown(word)} is too long or has a NUL")
        flag, value = _flag(kind, word)
        if flag and _is_refused(kind, flag):
            raise Refusal(f"Cmd: the flag {shown(flag)} is not allowed for {kind}")
        told = value if value is not None else "" if flag else word
        _check_paths(kind, told)
        if kind == "llamacpp" and flag:
            following = words[place + 1] if place + 1 < len(words) else ""
            _check_files(flag, following if value is None else value)


def _flag(kind: EngineImage, word: str) -> tuple[str, str | None]:
    """The flag of a word, as its program reads it, and the value that is one word with it."""
    if not word.startswith("-"):
        return "", None
    flag, equals, value = word.partition("=")
    if flag.startswith("--"):
        flag = flag.replace("_", "-")
    return flag, value if equals else None


def _is_refused(kind: EngineImage, flag: str) -> bool:
    if flag in REFUSED[kind]:
        return True
    if kind == "llamacpp":
        # Flags that fetch a model by themselves, such as --gpt-oss-20b-default.
        return flag.endswith("-default")
    if kind == "vllm" and flag.startswith("--"):
        # Nested settings are written --config.key; argparse may take a beginning for the flag.
        base = flag.partition(".")[0]
        return base in VLLM or any(long.startswith(base) for long in VLLM)
    return False


def _check_paths(kind: EngineImage, value: str) -> None:
    """A word that is a path, or a list of such, lies in the kind's folders."""
    for part in value.split(","):
        path = part.partition("=")[2] if PATH.search(part.partition("=")[2]) else part
        if PATH.search(path) and not _inside(path, KINDS[kind].folders):
            allowed = ", ".join(KINDS[kind].folders)
            raise Refusal(f"Cmd: the path {shown(path)} is not in {allowed}")


def _check_files(flag: str, value: str) -> None:
    if flag == SLOTS and not _inside(value, ("/slots",)):
        raise Refusal(f"Cmd: {SLOTS} {shown(value)} is not in /slots")
    if flag in FILES:
        for part in value.split(","):
            if not _inside(part, ("/models",)):
                raise Refusal(f"Cmd: the file of {flag}, {shown(part)}, is not in /models")


def _inside(path: str, folders: tuple[str, ...]) -> bool:
    if "/../" in f"{path}/" or "//" in path:
        return False
    return any(path == folder or path.startswith(f"{folder}/") for folder in folders)
