"""Random work on files through the kernel, with each set of mount options; tests/stress/run does more of it.

SATCHEL_TEST_STEPS and SATCHEL_TEST_SEED choose how much, and which.
"""

import os
import random
from typing import Any

import pytest

from tests.stress.exerciser import Exerciser
from tests.stress.options import OPTION_SETS

pytestmark = pytest.mark.mounted

STEPS = int(os.environ.get("SATCHEL_TEST_STEPS", "400"))
SEED = int(os.environ.get("SATCHEL_TEST_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)


@pytest.mark.parametrize("options", OPTION_SETS)
def test_a_file_is_what_was_written_to_it(device: Any, options: str) -> None:
    desk, laptop = device("desk", mount=False), device("laptop")
    desk.mount(*OPTION_SETS[options])
    Exerciser(desk, SEED, other=laptop).run(STEPS)
