"""Saved: results as JSON, for programs, and to add further rounds to another day."""

import json
from pathlib import Path
from typing import Any

from tests.bench.contestant import Used
from tests.bench.proxy import Counts
from tests.bench.rounds import Results
from tests.bench.work import Figure


def load(file: Path) -> Results:
    """What an earlier run kept there; nothing when there is no such file."""
    if not file.exists():
        return Results()
    told = json.loads(file.read_text())
    results = Results(missing=told["missing"], failed=told["failed"])
    for figure in told["figures"]:
        for contestant, values in figure["rounds"].items():
            for value in values:
                results.add(contestant, Figure(figure["name"], figure["unit"], value))
    results.used = {
        step: {name: [_used(one) for one in each] for name, each in by_name.items()}
        for step, by_name in told["used"].items()
    }
    return results


def used_as_json(results: Results) -> dict[str, dict[str, list[dict[str, float]]]]:
    """What each step used in each round, by contestant."""
    return {
        step: {name: [_told(one) for one in each] for name, each in by_name.items()}
        for step, by_name in results.used.items()
    }


def _told(used: Used) -> dict[str, float]:
    return {
        "daemon_cpu_seconds": used.daemon_cpu_seconds,
        "store_cpu_seconds": used.store_cpu_seconds,
        "requests": used.requests,
        "connections": used.wire.connections,
        "sent_bytes": used.wire.sent_bytes,
        "received_bytes": used.wire.received_bytes,
    }


# What json gives back is as `_told` made it.
def _used(told: dict[str, Any]) -> Used:
    wire = Counts(told["sent_bytes"], told["received_bytes"], told.get("connections", 0), 0.0)
    return Used(told["daemon_cpu_seconds"], told["store_cpu_seconds"], wire, told["requests"])
