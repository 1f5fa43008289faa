"""Names of moments: every form leads to the right time, and every name that is shown leads back to its rev."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusefs import moments
from fusefs.errors import Invalid
from remote.protocol.ids import Rev
from remote.protocol.messages import Moment

SECOND = 1_000_000_000
NOON = int(datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC).timestamp()) * SECOND


@pytest.mark.parametrize(
    ("text", "time_ns"),
    [
        ("2026-11-21T12.00.00Z", NOON + SECOND - 1),
        ("2026-11-21T12:00:00Z", NOON + SECOND - 1),
        ("2026-11-21 12:00:00", NOON + SECOND - 1),
        ("20261121T120000Z", NOON + SECOND - 1),
        ("2026-11-21T12:00", NOON),
        ("2026-11-21T13:00+01:00", NOON),
        ("2026-11-21T06.30-05.30", NOON),
        ("2026-11-21", NOON + 12 * 3_600 * SECOND - 1),
        ("2026-11-21+02:00", NOON + 10 * 3_600 * SECOND - 1),
        ("2026-11-21T12.00.00.250Z", NOON + 251_000_000 - 1),
        ("2026-11-21T12.00.00.123456789Z", NOON + 123_456_789),
    ],
)
def test_iso_times_with_and_without_colons(text: str, time_ns: int) -> None:
    assert moments.parse(text) == time_ns


@pytest.mark.parametrize(
    "text", ["", "yesterday", "2026-13-01", "2026-11-21T25:00", "2026-11-21T12:00:00.", "21.11.2026"]
)
def test_what_is_no_time_is_refused_by_name(text: str) -> None:
    with pytest.raises(Invalid, match="no time"):
        moments.parse(text)


@given(st.lists(st.integers(0, 3_000_000), min_size=1, max_size=60, unique=True))
def test_each_shown_name_leads_back_to_its_moment(milliseconds: list[int]) -> None:
    times = sorted((NOON + one * 1_000_000 for one in milliseconds), reverse=True)
    journal = [Moment(Rev(len(times) - number), time_ns) for number, time_ns in enumerate(times)]
    shown = moments.shown(journal)
    assert len({name for name, _ in shown}) == len(shown)
    for name, moment in shown:
        found = next(one for one in journal if one.time_ns <= moments.parse(name))
        assert found == moment
    assert shown[0][1] == journal[0]


def test_programs_read_iso_8601() -> None:
    assert moments.iso(NOON) == datetime.fromtimestamp(NOON // SECOND, UTC).isoformat().replace("+00:00", "Z")
    assert moments.parse(moments.iso(NOON)) // SECOND == NOON // SECOND
