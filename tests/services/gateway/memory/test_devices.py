"""Not run on a GPU: the driver's answers are given."""

import logging

import pytest

from contracts.deployment import Deployment
from contracts.gateway_settings import GatewaySettings
from services.gateway.memory.devices import Devices
from services.gateway.memory.readings import RamReading
from tests.services.gateway.memory.engines import (
    UUIDS,
    ToldReadings,
    no_cards,
    reading,
    two_cards,
)

MARGIN = 512


def devices(
    readings: ToldReadings,
    llm: str = "0,1",
    emb: str = "1",
    ram_mib: int | None = None,
    cards: bool = True,
) -> Devices:
    deployment = Deployment(nvidia_visible_devices_llm=llm, nvidia_visible_devices_emb=emb)
    settings = GatewaySettings(gateway_margin_mib=MARGIN, gateway_ram_mib=ram_mib)
    return Devices(settings, two_cards() if cards else no_cards(), deployment, readings)


def test_without_a_driver_the_presets_figures_hold() -> None:
    known = devices(ToldReadings())
    assert known.budget({"card0": 5_000}) == {
        "card0": 12_288 - MARGIN,
        "card1": 12_288 - MARGIN,
        "ram": 12_800,
    }
    card, _, ram = known.status({"card0": 5_000, "ram": 700})
    assert (card.name, card.total, card.reserved, card.free) == ("RTX 3060", 12_288, 5_000, None)
    assert (ram.total, ram.budget, ram.reserved, ram.free) == (16_000, 12_800, 700, None)


def test_the_budget_is_what_margin_and_others_leave() -> None:
    readings = ToldReadings((reading(0, used=7_000), reading(1, used=600)), RamReading(32_000, 1))
    known = devices(readings)
    assert known.budget({"card0": 6_000, "card1": 900}) == {
        "card0": 12_288 - MARGIN - 1_000,
        "card1": 12_288 - MARGIN,
        "ram": 25_600,
    }
    # Nobody said what ours hold: then nothing is taken for others'.
    assert known.budget()["card0"] == 12_288 - MARGIN
    first, second, ram = known.status({"card0": 6_000})
    assert (first.free, first.budget, first.name) == (5_288, 12_288 - MARGIN - 1_000, "card 0")
    assert second.budget == 12_288 - MARGIN - 600
    assert ram.free == 1


def test_a_look_at_the_devices_does_not_wait_for_the_driver() -> None:
    readings = ToldReadings((reading(0, used=7_000), reading(1)), RamReading(32_000, 1))
    known = devices(readings)
    known.budget()

    def stuck() -> None:
        raise AssertionError("the driver was asked")

    readings.cards = stuck  # type: ignore[method-assign]
    assert known.status({})[0].free == 5_288


def test_main_memory_is_what_the_settings_give() -> None:
    assert devices(ToldReadings(), ram_mib=9_000).budget()["ram"] == 9_000


def test_a_machine_without_cards_has_main_memory_alone() -> None:
    known = devices(ToldReadings((reading(0),), RamReading(8_000, 6_000)), cards=False)
    assert known.budget() == {"ram": 6_400}
    assert [status.device for status in known.status({})] == ["ram"]


def test_cards_of_another_maker_are_not_looked_for_at_the_driver() -> None:
    apple = two_cards(cards=[{"name": "Apple silicon", "mib": 21_845}], llm_cards=[0], emb_card=0)
    readings = ToldReadings((reading(0, used=9_000),), RamReading(32_000, 20_000))
    known = Devices(GatewaySettings(gateway_margin_mib=MARGIN), apple, Deployment(), readings)
    card, _ = known.status({"card0": 1})
    assert (card.name, card.budget, card.free) == ("Apple silicon", 21_845 - MARGIN, None)


@pytest.mark.parametrize(("llm", "emb"), [("1,0", "0"), (f"{UUIDS[1]},GPU-1111", UUIDS[0])])
def test_cards_are_found_by_index_and_by_uuid(llm: str, emb: str) -> None:
    known = devices(ToldReadings((reading(0, used=100), reading(1, used=200))), llm, emb)
    assert [status.free for status in known.status({})] == [12_088, 12_188, None]


def test_a_card_that_the_driver_does_not_know_is_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    known = devices(ToldReadings((reading(0),)), llm="0,7", emb="7")
    with caplog.at_level(logging.WARNING):
        assert known.budget()["card1"] == 12_288 - MARGIN
        assert known.status({})[1].free is None
    assert len([record for record in caplog.records if "does not know" in record.message]) == 1


async def test_what_is_free_is_not_waited_for() -> None:
    readings = ToldReadings((reading(0), reading(1)), RamReading(16_000, 9_000))
    demand = {"card0": 12_288, "card1": 1, "ram": 9_000}
    assert await devices(readings).wait_until_free(demand, timeout_s=0) is None
    assert await devices(ToldReadings()).wait_until_free(demand, timeout_s=0) is None


async def test_memory_that_comes_back_late_is_waited_for() -> None:
    readings = ToldReadings((reading(0, used=9_000), reading(1)))
    asked = 0

    def give_back() -> None:
        nonlocal asked
        asked += 1
        if asked == 4:
            readings.told_cards = (reading(0, used=300), reading(1))

    readings.before = give_back
    waited = devices(readings).wait_until_free({"card0": 11_000}, timeout_s=60, poll_s=0.001)
    assert await waited is None
    assert asked == 4


async def test_a_shortage_names_each_device_with_its_figures() -> None:
    readings = ToldReadings((reading(0, used=4_288), reading(1)), RamReading(16_000, 3_000))
    demand = {"card0": 11_000, "card1": 11_000, "ram": 4_000}
    lack = await devices(readings).wait_until_free(demand, timeout_s=0.01, poll_s=0.001)
    assert lack is not None
    assert str(lack) == (
        "card0 (card 0): 11000 MiB needed, 8000 MiB free; "
        "ram (main memory): 4000 MiB needed, 3000 MiB free"
    )
    assert [one.device for one in lack.lacks] == ["card0", "ram"]
