"""Growing: `tests/bench/run --growth`, as tables and as a plot."""

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

from tests.bench.growth import CPU_PER_OPERATION, PER_OPERATION, SIZES, Growth, growth, shapes
from tests.bench.work import Figure


def grow(given: argparse.Namespace) -> int:
    """Measures and prints; the exit code."""
    sizes = tuple(int(size) for size in given.sizes.split(",")) if given.sizes else SIZES
    work = Path(tempfile.mkdtemp(prefix="satchel-bench-", dir=given.work))
    try:
        found = growth(sizes, work, given.latency / 1e3)
        # Whoever asks for sizes of their own wants an answer soon.
        others = [] if given.sizes else list(shapes(work, given.latency / 1e3))
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if given.json:
        by_name = {
            name: {size: figure._asdict() for size, figure in by_size.items()} for name, by_size in found.items()
        }
        print(json.dumps({"growth": by_name, "shapes": [figure._asdict() for figure in others]}, indent=2))
    else:
        print(growth_table(found, sizes))
        print("\n" + shapes_table(others) if others else "", end="")
    if given.plot:
        plot(found, given.plot)
        print(f"drawn: {given.plot}", file=sys.stderr)
    return 0


def growth_table(found: Growth, sizes: tuple[int, ...]) -> str:
    """A row for each figure, a column for each size."""
    lines = [
        f"| files | unit | {' | '.join(f'{size:,}' for size in sizes)} |",
        f"| --- | --- |{' ---: |' * len(sizes)}",
    ]
    for name, by_size in found.items():
        cells = [f"{by_size[size].value:,.4g}" if size in by_size else "" for size in sizes]
        lines.append(f"| {name} | {next(iter(by_size.values())).unit} | {' | '.join(cells)} |")
    return "\n".join(lines)


def shapes_table(figures: list[Figure]) -> str:
    """A row for each figure."""
    rows = [f"| {figure.name} | {figure.unit} | {figure.value:,.4g} |" for figure in figures]
    return "\n".join(["| what | unit | here |", "| --- | --- | ---: |", *rows]) + "\n"


def plot(found: Growth, file: Path) -> None:
    """Draws what each operation costs against the number of files; flat lines are what we want."""
    # Half a second that nobody else should wait for.
    import matplotlib.pyplot as plt  # noqa: PLC0415
    from matplotlib.ticker import StrMethodFormatter  # noqa: PLC0415

    drawing, panels = plt.subplots(1, 2, figsize=(11, 5), layout="constrained", sharey=True)
    titles = {PER_OPERATION: "time, as a program sees it", CPU_PER_OPERATION: "of it, CPU time of the daemon"}
    for axes, (unit, title) in zip(panels, titles.items(), strict=True):
        for name, by_size in found.items():
            if next(iter(by_size.values())).unit == unit:
                label = name.removesuffix(": daemon")
                axes.plot(list(by_size), [figure.value for figure in by_size.values()], marker="o", label=label)
        axes.set(xscale="log", yscale="log", xlabel="files in the drive", title=title)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.grid(which="major", alpha=0.3)
    panels[0].set_ylabel("microseconds for one operation")
    panels[1].legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    drawing.savefig(file, dpi=110)
    plt.close(drawing)
