"""What the Dockerfile says, without building it; what it builds: stack/test_images.py."""

import re

from contracts.settings import REPOSITORY

TEXT = (REPOSITORY / "Dockerfile").read_text("utf-8")


def test_our_code_is_readable_in_an_image_that_was_built_in_a_private_checkout() -> None:
    copied = [line for line in TEXT.splitlines() if re.match(r"COPY (?!--from|<<)", line)]
    assert copied
    assert [line for line in copied if "--chmod=755 " not in line] == []
