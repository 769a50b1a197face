import pytest

from cli.host.answers import Answers
from cli.host.gpus import Gpu
from cli.host.plan import plan, values
from cli.host.proposal import cards_for, propose, tei_variant
from models.manifest import load_preset
from tests.support.machines import card, host

RTX_2070 = card(0, "RTX 2070", 8_192, "7.5")
RTX_4090 = card(1, "RTX 4090", 24_564, "8.9")


@pytest.mark.parametrize(
    ("cards", "wanted"),
    [
        ((), "cpu"),
        ((card(0, "RTX 3060", 12_288, "8.6"), card(1, "RTX 3060", 12_288, "8.6")), "2x3060"),
        ((card(0, "RTX 3090", 24_576, "8.6"),), "24gb"),
        ((card(0, "RTX 4080", 16_376, "8.9"),), "4060+4080"),
        ((RTX_2070, RTX_4090), "4090+2070"),
        ((card(0, "RTX 5090", 32_607, "12.0"),), "24gb"),
        ((card(0, "RTX 4060 Laptop GPU", 8_188, "8.9"),), "cpu"),
    ],
)
def test_the_preset_that_makes_the_most_of_the_cards_is_proposed(
    cards: tuple[Gpu, ...], wanted: str
) -> None:
    assert propose(host(*cards)) == wanted


def test_on_a_mac_it_is_the_one_without_docker() -> None:
    assert propose(host(system="darwin")) == "mac"


def test_cards_in_another_order_are_named_by_their_own_numbers() -> None:
    preset, machine = load_preset("4090+2070"), host(RTX_2070, RTX_4090)
    chosen = cards_for(preset, machine)
    assert chosen == (1, 0)
    written = values(plan(Answers("brain", "4090+2070", lan_ip="10.0.0.1", cards=chosen)))
    assert written["NVIDIA_VISIBLE_DEVICES_LLM"] == "1"
    assert written["NVIDIA_VISIBLE_DEVICES_EMB"] == "0"
    assert tei_variant(preset, machine) == "tei-turing"


def test_the_embeddings_image_follows_the_card_that_is_there() -> None:
    other = card(1, "RTX 3060", 12_288, "8.6")
    machine = host(card(0, "RTX 4090", 24_564, "8.9"), other)
    assert tei_variant(load_preset("4090+2070"), machine) == "tei-86"
    assert tei_variant(load_preset("4090+2070"), host()) == "tei-turing"
    assert tei_variant(load_preset("mac"), host()) is None


def test_cards_that_are_too_small_do_not_play() -> None:
    assert cards_for(load_preset("24gb"), host(card(0, "RTX 4080", 16_376, "8.9"))) is None
    assert cards_for(load_preset("2x3060"), host(card(0, "RTX 3090", 24_576, "8.6"))) is None
