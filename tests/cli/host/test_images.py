import pytest
import yaml

from cli.host.gpus import Gpu, Gpus
from cli.host.images import COMPUTE, NEEDS, driver_problem, fitting, tei_for, too_old
from contracts.settings import REPOSITORY


def with_driver(version: str) -> Gpus:
    return Gpus((Gpu(0, "RTX", "GPU-1", version, 12_288, 12_000, "8.6"),))


def test_every_image_that_takes_cards_has_its_need() -> None:
    text = (REPOSITORY / "services/images.yaml").read_text("utf-8")
    taking = {name for name, one in yaml.safe_load(text)["services"].items() if "deploy" in one}
    # The gateway only reads how much memory they have: any driver tells that.
    assert set(NEEDS) == taking - {"gateway-nvidia"}


def test_an_image_for_cuda_13_gives_way_to_one_for_older_drivers() -> None:
    assert fitting("llamacpp-cuda13", with_driver("570.133.07")) == "llamacpp-cuda"
    assert fitting("llamacpp-cuda13", with_driver("580.95.05")) == "llamacpp-cuda13"
    assert fitting("llamacpp-cuda13", Gpus(problem="none")) == "llamacpp-cuda13"


@pytest.mark.parametrize(
    ("variant", "driver", "told", "old"),
    [
        ("vllm-cuda", "575.64", "needs 580 or newer: it does not run", True),
        ("vllm-cuda", "580.65.06", "", False),
        ("tei-86", "570.133", "needs 575 or newer: it may not run", False),
        ("llamacpp-cuda", "520.1", "does not run", True),
        ("llamacpp-cpu", "520.1", "", False),
    ],
)
def test_a_driver_that_is_too_old_is_told(variant: str, driver: str, told: str, old: bool) -> None:
    problem = driver_problem(variant, with_driver(driver))
    assert told in problem
    assert bool(problem) is bool(told)
    assert too_old(variant, with_driver(driver)) is old


@pytest.mark.parametrize(
    ("variant", "compute", "wanted"),
    [
        ("tei-86", "8.9", "tei-86"),
        ("tei-89", "8.6", "tei-86"),
        ("tei-turing", "8.6", "tei-86"),
        ("tei-86", "7.5", "tei-turing"),
        ("tei-86", "12.0", "tei-cpu"),
        ("tei-86", "", "tei-86"),
        ("tei-cpu", "8.6", "tei-cpu"),
    ],
)
def test_the_embeddings_image_is_one_with_kernels_for_the_card(
    variant: str, compute: str, wanted: str
) -> None:
    assert tei_for(variant, compute) == wanted
    assert COMPUTE.keys() <= NEEDS.keys()
