"""Two or three devices, random edits, random absences, lost answers and kills: in the end all is equal and kept.

SATCHEL_MODEL_EXAMPLES sets how many plays each test runs (60 otherwise), SATCHEL_MODEL_SEED with which seed the long
ones begin. A failing play is printed with its seed; short ones are shrunk.
"""

import os
import random
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.model.play import Step, perform

EXAMPLES = int(os.environ.get("SATCHEL_MODEL_EXAMPLES", "60"))
SEED = int(os.environ.get("SATCHEL_MODEL_SEED", "1"))
EDITS = [
    *["create", "create", "mkdir", "symlink", "write", "write", "append", "cut", "save", "save", "rename", "rename"],
    *["exchange", "link", "unlink", "rmdir", "rmtree", "chmod", "utime", "xattr", "read"],
]
WORLD = ["wait", "wait", "wait", "offline", "online", "online", "look"]
HOLDS = ["hold", "hold", "release"]
WEATHER = ["weather", "kill", "kill", "restart", "forget"]


def steps(verbs: list[str], most: int) -> st.SearchStrategy[list[Step]]:
    number = st.integers(0, 99)
    return st.lists(st.builds(Step, st.sampled_from(verbs), st.integers(0, 2), number, number), max_size=most)


usual = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)


@pytest.fixture(autouse=True, scope="module")
def _in_small_parts() -> Iterator[None]:
    """What is done in parts when there is much of it is done in parts here, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cache.pull._AT_ONCE", 2)
        patch.setattr("cache.pull._ASKED_AT_ONCE", 3)
        patch.setattr("cache.store.CHECKPOINT_PUTS", 60)
        yield


@usual
@given(steps(EDITS + WORLD, 40), st.integers(0, 99))
def test_two_devices_end_equal_and_lose_nothing(play: list[Step], number: int) -> None:
    perform(play, devices=2, seed=number)


@usual
@given(steps(EDITS + WORLD + HOLDS + WEATHER, 40), st.integers(0, 99))
def test_kills_and_lost_answers_lose_nothing(play: list[Step], number: int) -> None:
    perform(play, devices=2, seed=number)


@usual
@given(steps(EDITS + WORLD + HOLDS + WEATHER, 60), st.integers(0, 99))
def test_three_devices_with_wrong_clocks_end_equal(play: list[Step], number: int) -> None:
    perform(play, devices=3, seed=number, skews=(0, 30, -4_000))


def test_long_plays_end_equal_and_lose_nothing() -> None:
    for number in range(SEED, SEED + EXAMPLES):
        rng = random.Random(number)
        verbs = EDITS + WORLD + HOLDS + WEATHER
        play = [
            Step(rng.choice(verbs), rng.randrange(3), rng.randrange(100), rng.randrange(100))
            for _ in range(rng.choice((20, 40, 80)))
        ]
        try:
            perform(play, devices=3, seed=number, skews=(0, 30, -4_000))
        except BaseException:
            print(f"SATCHEL_MODEL_SEED={number} SATCHEL_MODEL_EXAMPLES=1 repeats it")
            raise
