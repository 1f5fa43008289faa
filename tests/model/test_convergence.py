"""Two or three devices, random edits, random absences, lost answers and kills: in the end all is equal and kept.

SATCHEL_MODEL_EXAMPLES sets how many plays each test runs (60 otherwise), SATCHEL_MODEL_SEED with which seed the long
ones begin. A failing play is printed with its seed; short ones are shrunk.
"""

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.model.play import Step, perform
from tests.model.plays import EDITS, HOLDS, WEATHER, WORLD, in_small_parts, long_play
from tests.model.sharing import sharing_play

EXAMPLES = int(os.environ.get("SATCHEL_MODEL_EXAMPLES", "60"))
SEED = int(os.environ.get("SATCHEL_MODEL_SEED", "1"))


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
    with in_small_parts():
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
    for seed in range(SEED, SEED + EXAMPLES):
        try:
            long_play(seed)
        except BaseException:
            print(f"tests/model/run --first {seed} --seeds 1 --log repeats it")
            raise


@pytest.mark.parametrize(
    "seed",
    [
        *[22230, 301115, 301287, 400917, 401618, 402576, 403016, 410245, 413065, 421555, 503537, 506162, 513637],
        *[538625, 539787, 600066, 602768, 804896, 811787],
    ],
)
def test_long_plays_that_failed_once(seed: int) -> None:
    """413065 never ended: what is ignored was sent again and again, without a pause.

    538625: who closed a file that was removed took the content away of an edit that lost and was not sent yet.
    539787: a node whose news waited took the place in an index of the one that has its name now.
    600066: a new name that is ignored was not sent of a file that the server had by a late commit.
    602768: a removed folder that came back for a file took another folder, in which the file is, with it.
    804896: a removed file came back, as its folder had become one with another of its name elsewhere.
    811787: a removed folder came back empty, as something ignored had been in it until then.
    """
    long_play(seed)


@pytest.mark.parametrize(
    "seed",
    [2, 15, 33, 51, 136, 169, 189, 364, 375, 2089, 2090, 2682, 2878, 3001, 3161, 3231, 3279, 3368, 3807, 4407, 6963],
)
def test_plays_of_two_users_who_share_that_failed_once(seed: int) -> None:
    """15: what was sent to a space that is shared no more was seen by nobody.

    2: a file of what was written stayed on the disk. 364: `satchel wait` returned before the server had it.
    2089: what was being written to a file that was removed elsewhere was lost when sharing ended. 2090: never quiet.
    2682: a folder that ceased to be a shared one before the list of spaces came stopped all news.
    2878: a shared folder was never listed. 3001: a folder of the home was moved into a shared one.
    3161: of what waited to come into a folder, sharing it made nothing. 3231: a file was moved into a folder while it
    became a shared one. 3279: a folder that became a shared one while it was listed was never listed. 3368: bytes of
    a file that was open were counted for ever. 3807: what was removed beside an edit of a mount became its space's.
    4407: two polls waited for one space, without a pause. 6963: a folder that was left and accepted again was empty.
    """
    sharing_play(seed)
