"""Random programs in a drive and in a local folder come to the same; tests/stress/run does more of it.

SATCHEL_TEST_STEPS and SATCHEL_TEST_SEED choose how much, and which.
"""

import os
import random
from pathlib import Path
from typing import Any

import pytest

from tests.stress.options import OPTION_SETS
from tests.stress.twins import Twins

pytestmark = [
    pytest.mark.mounted,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as others, and have a root of its own"),
]

STEPS = int(os.environ.get("SATCHEL_TEST_STEPS", "400"))
SEED = int(os.environ.get("SATCHEL_TEST_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)


@pytest.mark.parametrize("options", ["plain", "owners=real", "sync=remote"])
def test_programs_cannot_tell_it_from_a_local_disk(device: Any, tmp_path: Path, options: str) -> None:
    desk, laptop = (device(name, mount=False).mount(*OPTION_SETS[options]) for name in ("desk", "laptop"))
    local = tmp_path / "local"
    local.mkdir()
    # Each close waits for the server there.
    steps = STEPS // 5 if options == "sync=remote" else STEPS
    Twins(desk, local, SEED, has_owners="owners" in options, other=laptop).run(steps)
