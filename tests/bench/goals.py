"""Goals: figures that this project has set itself, for the usual scale, by the distance of the server in ms."""

from tests.bench.rounds import CPU, PEAK

GOALS: dict[float, dict[str, float]] = {
    0.0: {
        "write 1 GiB until close": 1_000,
        "write 1 GiB until on the server": 200,
        "read 1 GiB, cold": 650,
        "read 1 GiB, cached, no pages": 1_500,
        "read 1 GiB, page cache": 5_500,
        "4 KiB random reads after the first 1 s": 8_000,
        "4 KiB random reads: fetched per byte asked": 6.7,
        "first byte of a cold 1 GiB file": 8,
        "last MiB of a cold sparse 10 GiB file": 8,
        "create 5,000 x 4 KiB until close": 3_000,
        "create 5,000 x 4 KiB until on the server": 2_500,
        "find -ls of many, cold": 45_000,
        "find -ls of many, warm": 158_000,
        "tar of many, cold": 5_000,
        "rm -rf of many": 5_000,
        "untar of git's source": 3,
        "git add": 6,
        "git status": 0.15,
        "git status again": 0.04,
        "4 KiB changed in a cold 1 GiB file: sent": 16,
        "4 KiB changed in a cold 1 GiB file: fetched": 1,
        "4 KiB changed in a cold 1 GiB file, until on the server": 30,
        PEAK: 120,
        CPU: 20,
    },
    20.0: {
        "read 1 GiB, cold": 450,
        "first byte of a cold 1 GiB file": 60,
        "create 5,000 x 4 KiB until close": 3_000,
        "create 5,000 x 4 KiB until on the server": 2_000,
        "find -ls of many, cold": 20_000,
        "tar of many, cold": 1_500,
        "rm -rf of many": 5_000,
    },
}
