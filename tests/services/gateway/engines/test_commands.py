import shlex

from contracts.deployment import Deployment
from contracts.manifest import ModelSource
from models.manifest import load_preset
from services.gateway.engines.commands import (
    Hub,
    card_devices,
    card_environment,
    llama_server,
    text_embeddings,
    vllm,
)
from tests.services.gateway.engines.bench import spec

REPOSITORY = ModelSource(url="hf:org/model@abc")


def line(words: tuple[str, ...]) -> str:
    return shlex.join(words)


def test_llama_server_gets_todays_flags() -> None:
    flags = ("--n-gpu-layers", "all", "--parallel", "2", "--kv-unified")
    made = llama_server(
        spec("m@fast", flags=flags), 8192, model="/models/m/m.gguf", host="h", port=1, key="k"
    )
    assert line(made.words) == (
        "--model /models/m/m.gguf --alias m@fast --host h --port 1 --no-webui --verbosity 4"
        " --ctx-size 8192 --jinja --metrics --n-gpu-layers all --parallel 2 --kv-unified"
    )
    assert made.environment == {"LLAMA_API_KEY": "k"}


def test_llama_server_has_as_many_slots_as_requests_are_let_in() -> None:
    made = llama_server(spec(), 512, model="m", host="h", port=1, key="k", slots="/slots")
    assert "--parallel 1 --slot-save-path /slots" in line(made.words)


def test_llama_server_embeds_and_reranks_whole_inputs() -> None:
    def words(kind: str, context: int) -> str:
        made = llama_server(spec(kind=kind), context, model="m", host="h", port=1, key="k")
        return line(made.words)

    embed = words("embed", 8192)
    assert "--embeddings --pooling cls --batch-size 2048 --ubatch-size 2048 --metrics" in embed
    assert "--reranking --batch-size 512 --ubatch-size 512 --metrics" in words("rerank", 512)
    assert "--jinja" not in embed
    assert "--jinja" in words("classify", 512)


def test_vllm_answers_to_every_name_of_its_own() -> None:
    made = vllm(
        spec("m", engine="vllm", source=REPOSITORY, aliases=("x",), flags=("--revision", "abc")),
        4096,
        key="k",
        memory_share=0.85,
        hub=Hub("token"),
    )
    assert line(made.words) == (
        "org/model --served-model-name m fast x org/model default --host 0.0.0.0 --port 8000"
        " --max-model-len 4096 --gpu-memory-utilization 0.85 --revision abc"
    )
    assert made.environment == {
        "VLLM_API_KEY": "k",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0",
        "HF_TOKEN": "token",
    }


def test_vllm_that_sleeps_gets_its_routes_and_two_cards_no_custom_all_reduce() -> None:
    two = spec("m", engine="vllm", source=REPOSITORY, sleep=1, cards=(0, 1))
    made = vllm(two, 4096, key="k", memory_share=0.9, hub=Hub())
    assert {"--enable-sleep-mode", "--disable-custom-all-reduce"} < set(made.words)
    assert made.environment["VLLM_SERVER_DEV_MODE"] == "1"


def test_tei_is_told_by_its_environment() -> None:
    made = text_embeddings(
        spec("e", engine="tei", kind="embed", source=REPOSITORY),
        key="k",
        cache="/data/hub",
        hub=Hub("", "https://hub.test"),
    )
    assert made.words == ("--json-output",)
    assert made.environment == {
        "HOSTNAME": "0.0.0.0",
        "PORT": "8080",
        "HUGGINGFACE_HUB_CACHE": "/data/hub",
        "API_KEY": "k",
        "MAX_CLIENT_BATCH_SIZE": "2048",
        "PAYLOAD_LIMIT": "67108864",
        "MODEL_ID": "org/model",
        "REVISION": "abc",
        "HF_ENDPOINT": "https://hub.test",
    }


def test_an_engine_sees_its_cards_by_the_drivers_names() -> None:
    preset = load_preset("2x3060")
    told = Deployment(nvidia_visible_devices_llm="GPU-b, GPU-a", nvidia_visible_devices_emb="x")
    devices = card_devices(told, preset)
    assert devices == {0: "GPU-b", 1: "GPU-a"}
    seen = card_environment(spec(cards=(1, 0)), devices)
    assert seen == {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "GPU-a,GPU-b"}
    # One name for two cards says nothing of either.
    assert card_devices(Deployment(nvidia_visible_devices_llm="3"), preset)[0] == "0"


def test_an_engine_without_cards_sees_none() -> None:
    assert card_environment(spec(), {0: "0"})["CUDA_VISIBLE_DEVICES"] == ""
