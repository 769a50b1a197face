from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from cli.host import secret
from cli.host.answers import COMPOSE_FILES, PROFILES, Answers, answers_of
from cli.host.dotenv import EnvFile
from cli.host.plan import FORMER, plan, values
from contracts.broker_settings import BrokerSettings
from contracts.deployment import Deployment, Role
from contracts.errors import SettingsError
from contracts.gateway_settings import GatewaySettings
from contracts.settings import REPOSITORY, Settings
from models.manifest import preset_names

BRAIN = Answers(
    role="brain",
    preset="4090+2070",
    lan_ip="192.168.1.10",
    model_store=Path("/srv/models"),
    hf_home=Path("/srv/hub"),
    cpus=16,
)
HANDS = Answers(
    role="hands",
    preset="4090+2070",
    brain_ip="192.168.1.10",
    brain_key="b" * 64,
    workspace=Path("/home/me/my work"),
)


def made(answers: Answers) -> dict[str, str]:
    return values(plan(answers))


def again(answers: Answers, text: str) -> str:
    """What a second `variet init` with those answers makes of a file."""
    here = EnvFile(text)
    sections = plan(answers, here.values, before=answers_of(here.values))
    return here.with_sections(sections).text


def unasked(text: str) -> str:
    """The same, where nothing is said anew."""
    answers = answers_of(EnvFile(text).values)
    assert answers is not None
    return again(answers, text)


def first(answers: Answers) -> str:
    return EnvFile().with_sections(plan(answers)).text


@pytest.mark.parametrize("name", preset_names())
def test_every_line_is_a_setting_of_one_of_the_pages(name: str) -> None:
    pages = (Settings, Deployment, GatewaySettings)
    known = {n.upper() for page in (*pages, BrokerSettings) for n in page.model_fields}
    for answers in (replace(BRAIN, preset=name), replace(HANDS, preset=name)):
        written = made(answers)
        assert written.keys() <= known
        lower = {n.lower(): v for n, v in written.items()}
        for page in pages:
            page.model_validate({n: v for n, v in lower.items() if n in page.model_fields})


def test_the_brain_fetches_the_engines_of_all_its_tiers() -> None:
    here = made(BRAIN)
    assert here["COMPOSE_PROFILES"] == "llamacpp,vllm,embeddings"
    assert (here["ENGINE_TIER"], here["GPU_MEM_UTIL"]) == ("balanced", "0.92")
    assert (here["VLLM_VARIANT"], here["TEI_VARIANT"]) == ("vllm-cuda", "tei-turing")
    assert here["GATEWAY_CARDS"] == "gateway-nvidia"
    assert (here["NVIDIA_VISIBLE_DEVICES_LLM"], here["NVIDIA_VISIBLE_DEVICES_EMB"]) == ("0", "1")
    fast = made(replace(BRAIN, tier="fast"))
    assert {n for n in fast if fast[n] != here[n] and n not in secret.SECRET} == {"ENGINE_TIER"}
    assert made(replace(BRAIN, preset="2x3060"))["COMPOSE_PROFILES"] == "llamacpp,embeddings"


def test_a_host_without_cards_names_none() -> None:
    here = made(replace(BRAIN, preset="cpu"))
    assert (here["LLAMACPP_VARIANT"], here["TEI_VARIANT"]) == ("llamacpp-cpu", "tei-cpu")
    assert not {"NVIDIA_VISIBLE_DEVICES_LLM", "GATEWAY_CARDS", "VLLM_VARIANT"} & here.keys()


def test_lines_of_a_brain_without_a_gateway_go_and_its_secrets_stay() -> None:
    text = first(BRAIN).replace("GATEWAY_ADMIN_KEY=", "GATEWAY_ADMIN=")
    old = "".join(f"{name}=x\n" for name in FORMER)
    now = EnvFile(unasked(f"# mine\n{old}{text}"))
    assert not FORMER.keys() & now.values.keys()
    assert now.text.startswith("# mine\n")
    assert now.values["GATEWAY_API_KEY"] == EnvFile(text).values["GATEWAY_API_KEY"]
    assert len(now.values["GATEWAY_ADMIN_KEY"]) == 64
    assert now.values["GATEWAY_ADMIN_KEY"] != now.values["GATEWAY_API_KEY"]
    # The hands, and a laptop, still name their model.
    assert EnvFile(unasked(first(HANDS))).values["MODEL_ID"] == "default"


def test_a_workstation_that_asked_another_port_for_embeddings_asks_the_gateway() -> None:
    text = first(HANDS).replace(
        "EMBED_URL=http://192.168.1.10:8000", "EMBED_URL=http://192.168.1.10:8081"
    )
    assert EnvFile(unasked(text)).values["EMBED_URL"] == "http://192.168.1.10:8000/v1"
    mine = text.replace("EMBED_URL=http://192.168.1.10:8081", "EMBED_URL=http://10.0.0.9:9")
    assert EnvFile(unasked(mine)).values["EMBED_URL"] == "http://10.0.0.9:9/v1"
    moved = replace(HANDS, brain_url="http://brain:9000/v1")
    assert made(moved)["EMBED_URL"] == "http://brain:9000/v1"


def test_a_host_whose_engines_run_natively_has_no_stack() -> None:
    here = made(replace(BRAIN, preset="mac"))
    assert "COMPOSE_FILE" not in here
    assert "COMPOSE_PROFILES" not in here
    assert (here["ENGINE_BACKEND"], here["GATEWAY_HOST"]) == ("process", here["LAN_IP"])


def test_the_workstation_asks_the_brain() -> None:
    here = made(HANDS)
    assert here["OPENAI_COMPAT_URL"] == "http://192.168.1.10:8000/v1"
    assert here["EMBED_URL"] == here["OPENAI_COMPAT_URL"]
    assert here["OPENAI_COMPAT_KEY"] == here["EMBED_KEY"] == "b" * 64
    assert here["EMBED_MODEL"] == "bge-large-en-v1.5"
    assert here["COMPOSE_PROFILES"] == "qdrant,langfuse,searxng"
    assert here["LANGFUSE_BASE_URL"] == "http://127.0.0.1:3000"


def test_without_the_brains_preset_the_workstation_embeds_by_itself() -> None:
    here = made(replace(HANDS, preset=None, profiles=("qdrant",)))
    assert not {"EMBED_URL", "EMBED_KEY", "EMBED_MODEL", "LANGFUSE_BASE_URL"} & here.keys()


@pytest.mark.parametrize("answers", [BRAIN, replace(BRAIN, tier="fast", profiles=()), HANDS])
def test_the_same_answers_again_change_no_byte(answers: Answers) -> None:
    text = first(answers)
    assert again(answers, text) == text
    here = answers_of(EnvFile(text).values)
    assert here is not None
    assert again(here, text) == text


def test_changed_answers_change_the_lines_that_follow_and_no_other() -> None:
    text = "# mine\nMY_OWN=1\n" + first(BRAIN)
    changed = again(replace(BRAIN, lan_ip="192.168.1.11"), text)
    assert changed == text.replace("LAN_IP=192.168.1.10", "LAN_IP=192.168.1.11")
    moved = EnvFile(again(replace(HANDS, brain_ip="10.0.0.9"), first(HANDS))).values
    assert moved["OPENAI_COMPAT_URL"] == "http://10.0.0.9:8000/v1"


def test_what_a_person_changed_stays_until_its_answer_changes() -> None:
    text = first(BRAIN).replace("ENGINE_MEMORY=16384m", "ENGINE_MEMORY=8g")
    assert "ENGINE_MEMORY=8g" in text
    assert again(BRAIN, text) == text
    other = EnvFile(again(replace(BRAIN, preset="cpu"), text)).values
    assert other["ENGINE_MEMORY"] == "6144m"


def test_langfuse_s_address_follows_the_port_and_the_address_that_it_is_published_at() -> None:
    text = first(HANDS)
    for line, url in (
        ("LANGFUSE_PORT=3100", "http://127.0.0.1:3100"),
        ("BIND_ADDR=192.168.1.20", "http://192.168.1.20:3000"),
        ("BIND_ADDR=0.0.0.0", "http://127.0.0.1:3000"),
    ):
        moved = unasked(f"{text}{line}\n")
        assert EnvFile(moved).values["LANGFUSE_BASE_URL"] == url
        assert unasked(moved) == moved
    mine = text.replace("http://127.0.0.1:3000", "https://langfuse.lan")
    assert unasked(f"{mine}LANGFUSE_PORT=3100\n") == f"{mine}LANGFUSE_PORT=3100\n"


def test_a_copied_key_that_was_emptied_is_copied_again() -> None:
    text = first(HANDS)
    emptied = text.replace("EMBED_KEY=" + "b" * 64, "EMBED_KEY=")
    assert emptied != text
    assert unasked(emptied) == text


def test_folders_are_relative_to_the_repository_as_compose_takes_them() -> None:
    base = answers_of({"MODEL_STORE": "store", "HF_HOME": "~/hub"}, "brain")
    assert base is not None
    assert (base.model_store, base.hf_home) == (REPOSITORY / "store", Path.home() / "hub")
    text = first(BRAIN).replace("/srv/models", "store")
    assert "MODEL_STORE=store\n" in unasked(text)


def test_what_a_person_wrote_before_the_first_time_is_an_answer_or_stays() -> None:
    text = "QDRANT_URL=http://index:6333\nWORKSPACE_DIR=/srv/mine\nRETENTION_DAYS=7\n"
    here = EnvFile(text).values
    base = answers_of(here, "hands")
    assert base is not None
    assert base.workspace == Path("/srv/mine")
    assert base.profiles is None
    answers = replace(HANDS, workspace=base.workspace, profiles=("langfuse",))
    after = EnvFile(text).with_sections(plan(answers, here)).text.splitlines()
    assert [line for line in after if line in text.splitlines()] == text.splitlines()


def test_a_secret_that_is_there_is_never_overwritten() -> None:
    for answers in (BRAIN, HANDS):
        text = first(answers)
        names = set(EnvFile(text).values) & secret.SECRET
        assert len(names) >= 1
        other = EnvFile(again(replace(answers, preset="cpu", profiles=()), text)).values
        assert {n: other[n] for n in names if n != "EMBED_KEY"} == {
            n: EnvFile(text).values[n] for n in names if n != "EMBED_KEY"
        }


def test_secrets_have_256_bits_in_the_form_that_each_image_takes() -> None:
    here = made(HANDS)
    assert len(here["LANGFUSE_ENCRYPTION_KEY"]) == 64
    for name in (*secret.HANDS, *secret.LANGFUSE):
        digits = here[name].removeprefix("sk-lf-")
        assert int(digits, 16) > 0
        assert len(digits) * 4 >= 256
    assert here["LANGFUSE_PUBLIC_KEY"].startswith("pk-lf-")
    assert len({here[n] for n in secret.HANDS}) == len(secret.HANDS)
    assert made(HANDS)["POSTGRES_PASSWORD"] != here["POSTGRES_PASSWORD"]


@pytest.mark.parametrize(
    ("answers", "told"),
    [
        (replace(BRAIN, preset=None), "--preset is not given"),
        (replace(BRAIN, lan_ip=None), "--lan-ip is not given"),
        (replace(HANDS, brain_ip=None), "--brain-ip is not given"),
        (replace(HANDS, brain_key=None), "--brain-key is not given"),
        (replace(BRAIN, preset="mainframe"), "no host preset 'mainframe'"),
        (replace(BRAIN, profiles=("langfuse",)), "--profiles langfuse"),
        (replace(HANDS, profiles=("vllm",)), "--profiles vllm"),
        (replace(HANDS, preset=None, embed_url="http://b:1/v1"), "--preset is not given"),
    ],
)
def test_answers_that_do_not_fit_are_named(answers: Answers, told: str) -> None:
    with pytest.raises(SettingsError) as caught:
        plan(answers)
    assert told in caught.value.message
    assert caught.value.remedy


@pytest.mark.parametrize("role", COMPOSE_FILES)
def test_the_profiles_are_those_of_the_stack(role: Role) -> None:
    stack = yaml.safe_load((REPOSITORY / COMPOSE_FILES[role]).read_text("utf-8"))
    named = {name for service in stack["services"].values() for name in service.get("profiles", ())}
    # Nothing selects the profile of the containers that the gateway makes.
    assert named - {"engines"} == set(PROFILES[role])
