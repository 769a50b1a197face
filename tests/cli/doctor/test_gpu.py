import pytest

from cli.doctor.gpu import card_images, check_cards, check_driver, check_memory, visible
from cli.host.gpus import Gpu, Gpus
from contracts.deployment import Deployment


def cards(driver: str = "580.95.05", free: int = 11_800, count: int = 2) -> Gpus:
    return Gpus(
        tuple(
            Gpu(n, "NVIDIA GeForce RTX 3060", f"GPU-{n}a1b2c3d-0000", driver, 12_288, free, "8.6")
            for n in range(count)
        )
    )


def deployment(**values: object) -> Deployment:
    return Deployment(_env_file=None, **values)  # type: ignore[arg-type]


def test_each_selected_image_asks_for_its_driver() -> None:
    here = deployment(llamacpp_variant="llamacpp-cuda13", tei_variant="tei-86")
    wanted = card_images(here, frozenset({"llamacpp", "embeddings"}))
    assert wanted == ["llamacpp-cuda13", "tei-86"]
    assert card_images(here, frozenset({"vllm"})) == ["vllm-cuda"]
    on_cpu = deployment(llamacpp_variant="llamacpp-cpu", tei_variant="tei-cpu")
    assert card_images(on_cpu, frozenset({"llamacpp", "embeddings", "rerank"})) == []


@pytest.mark.parametrize(
    ("driver", "image", "status"),
    [
        ("580.95.05", "llamacpp-cuda13", "ok"),
        ("610.10", "llamacpp-cuda13", "ok"),
        ("575.64", "llamacpp-cuda13", "failure"),
        ("570.124", "llamacpp-cuda", "ok"),
        ("550.54", "llamacpp-cuda", "warning"),
        ("470.256", "llamacpp-cuda", "failure"),
        ("[N/A]", "llamacpp-cuda", "failure"),
    ],
)
def test_a_driver_that_is_too_old_for_its_image_is_told(
    driver: str, image: str, status: str
) -> None:
    found = check_driver(cards(driver), image)
    assert found.status == status
    assert driver in found.detail
    if status == "failure" and image.endswith("13"):
        assert "LLAMACPP_VARIANT=llamacpp-cuda" in found.remedy


def test_no_card_is_a_failure_only_where_an_image_needs_one() -> None:
    none = Gpus(problem="nvidia-smi: No such file or directory")
    assert list(check_cards(none, [])) == []
    (found,) = check_cards(none, ["vllm-cuda"])
    assert found.status == "failure"
    assert "No such file" in found.detail
    assert "--preset cpu" in found.remedy


def test_every_card_is_named_with_what_is_free_on_it() -> None:
    first, second, driver = check_cards(cards(), ["vllm-cuda"])
    assert "11.5 GiB of 12.0 GiB free" in first.detail
    assert (second.name, driver.name) == ("gpu 1", "driver for vllm-cuda")


def test_memory_is_compared_card_by_card() -> None:
    assert check_memory(cards(free=11_000), "0,1", [10_900, 10_900], "m", False).status == "ok"
    short = check_memory(cards(free=9_000), "0,1", [8_000, 9_500], "m", False)
    assert short.status == "failure"
    assert "card 1 has 8.8 GiB free and needs 9.3 GiB" in short.detail
    assert "card 0" not in short.detail


def test_what_our_engine_holds_is_not_held_against_it() -> None:
    assert check_memory(cards(free=500), "0,1", [10_000, 10_000], "m", True).status == "ok"
    assert check_memory(cards(free=500), "0,1", [13_000, 10_000], "m", True).status == "failure"


def test_cards_are_named_by_index_or_uuid() -> None:
    known = cards()
    assert [one.index for one in visible(known, "GPU-1a1b,0")[0]] == [1, 0]
    assert len(visible(known, "all")[0]) == 2
    assert visible(known, "0,7") == ([known.cards[0]], ["7"])
    wrong = check_memory(known, "0,7", [1, 1], "m", False)
    assert (wrong.status, "NVIDIA_VISIBLE_DEVICES_LLM=0,7" in wrong.detail) == ("failure", True)
    assert check_memory(known, "0", [1, 1], "m", False).status == "failure"
