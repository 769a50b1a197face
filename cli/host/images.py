"""Which driver an image of services/images.yaml needs.

Floors on GeForce cards, where compatibility packages do not help: CUDA 13 needs 580, CUDA 12.8
natively 570 and 12.9 natively 575; any 12.x may run on 525 by minor-version compatibility, though
not all of its kernels do (NVIDIA's CUDA compatibility guide). Containers of an older driver than an
image names may be refused when they are made.
"""

from dataclasses import dataclass

from cli.host.gpus import Gpus


@dataclass(frozen=True)
class DriverNeed:
    """Major versions: from `native` on all is well, below `least` nothing runs."""

    native: int
    least: int
    cuda: str


CUDA_12_8 = DriverNeed(570, 525, "12.8")
CUDA_12_9 = DriverNeed(575, 525, "12.9")
CUDA_13 = DriverNeed(580, 580, "13")
NEEDS = {
    "llamacpp-cuda": CUDA_12_8,
    "llamacpp-cuda13": CUDA_13,
    "vllm-cuda": CUDA_13,
    "tei-86": CUDA_12_9,
    "tei-89": CUDA_12_9,
    "tei-turing": CUDA_12_9,
}
# Compute capabilities that an image of TEI has kernels for, from and to.
COMPUTE = {"tei-86": (8.6, 8.9), "tei-89": (8.9, 8.9), "tei-turing": (7.5, 7.5)}
TEI_ANYWHERE = "tei-cpu"
OLDER = {"llamacpp-cuda13": "llamacpp-cuda"}


def fitting(variant: str, found: Gpus) -> str:
    """`variant`, or the one for older drivers where this driver is too old for it."""
    need, major = NEEDS.get(variant), found.driver_major
    if need is None or major is None or major >= need.least:
        return variant
    return OLDER.get(variant, variant)


def driver_problem(variant: str, found: Gpus) -> str:
    """Why `variant` will not run, or may not, with this driver; "" if it will."""
    need, major = NEEDS.get(variant), found.driver_major
    if need is None or major is None or major >= need.native:
        return ""
    doubt = "does not run" if major < need.least else "may not run"
    return (
        f"the driver is {found.driver}, and the image {variant} (CUDA {need.cuda}) needs"
        f" {need.native} or newer: it {doubt}"
    )


def too_old(variant: str, found: Gpus) -> bool:
    need, major = NEEDS.get(variant), found.driver_major
    return need is not None and major is not None and major < need.least


def tei_for(variant: str, compute: str) -> str:
    """`variant`, or the image of TEI that has kernels for a card of that compute capability; the
    processor's where there is none. `compute` "": not known."""
    if variant not in COMPUTE or not compute:
        return variant
    wanted = float(compute)
    suiting = [name for name, (least, most) in COMPUTE.items() if least <= wanted <= most]
    if variant in suiting:
        return variant
    return suiting[0] if suiting else TEI_ANYWHERE
