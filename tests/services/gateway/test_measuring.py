"""What other programs take of the devices, while the gateway runs."""

import pytest

from services.gateway.gate import Refused
from tests.services.gateway.gate_bench import ROOM_MIB, bench


async def test_memory_that_another_program_gives_back_is_there_for_engines() -> None:
    async with bench() as b:
        b.budget = {"ram": 50}
        await b.gate.reload()
        with pytest.raises(Refused, match="available are ram 50 MiB"):
            await b.gate.load(b.spec("one"))
        b.budget = {"ram": ROOM_MIB}
        await b.gate.measure()
        await b.gate.load(b.spec("one"))


async def test_memory_that_another_program_takes_is_seen_twice_before_it_counts() -> None:
    async with bench() as b:
        b.budget = {"ram": 50}
        await b.gate.measure()
        await b.gate.load(b.spec("one"))
        await b.gate.unload(b.spec("one"))
        await b.gate.measure()
        await b.gate.measure()
        with pytest.raises(Refused, match="available are ram 50 MiB"):
            await b.gate.load(b.spec("one"))


async def test_what_our_own_engines_take_is_not_told_from_what_others_do() -> None:
    async with bench() as b:
        await b.gate.load(b.spec("one"))
        b.budget = {"ram": 50}
        await b.gate.measure()
        await b.gate.measure()
        await b.gate.load(b.spec("two"))
        assert b.state("two") == "ready"
