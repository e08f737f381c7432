"""fio with verification in several ways of writing, and dbench."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.programs.running import needs, run

pytestmark = pytest.mark.programs


@needs("fio")
@pytest.mark.parametrize(
    "options",
    [
        pytest.param(["--rw=write", "--bs=64k", "--ioengine=psync"], id="sequential"),
        pytest.param(["--rw=randwrite", "--bs=4k", "--ioengine=psync"], id="random"),
        pytest.param(["--rw=randrw", "--bsrange=512-32k", "--ioengine=psync"], id="mixed"),
        pytest.param(["--rw=randwrite", "--bs=4k", "--ioengine=psync", "--fsync=16"], id="fsync"),
        pytest.param(
            ["--rw=write", "--bs=16k", "--ioengine=psync", "--sync=1", "--size=1m"],
            id="synchronous",
        ),
        pytest.param(["--rw=randwrite", "--bs=4k", "--ioengine=psync", "--direct=1"], id="direct"),
        pytest.param(
            ["--rw=randrw", "--bs=4k", "--ioengine=libaio", "--direct=1", "--iodepth=16"],
            id="aio-direct",
        ),
        pytest.param(["--rw=randwrite", "--bs=8k", "--ioengine=libaio", "--iodepth=8"], id="aio"),
        pytest.param(["--rw=randwrite", "--bs=4k", "--ioengine=mmap"], id="mmap"),
        pytest.param(["--rw=randrw", "--bs=4k", "--ioengine=mmap", "--fsync=32"], id="mmap-fsync"),
        pytest.param(
            [
                "--rw=randwrite",
                "--bs=4k",
                "--ioengine=psync",
                "--fallocate=none",
                "--io_size=12m",
                "--norandommap=1",
                "--verify_backlog=64",
            ],
            id="overwrite",
        ),
    ],
)
def test_fio_reads_back_what_it_wrote(place: Path, options: list[str]) -> None:
    engine = next(option.split("=")[1] for option in options if "ioengine" in option)
    if engine not in run("fio", "--enghelp", cwd=place).split():
        pytest.skip(f"this fio has no engine {engine}")
    run(
        "fio", "--name=job", f"--directory={place}", "--size=6m", "--numjobs=2",
        "--verify=crc32c", "--verify_fatal=1", "--do_verify=1", "--verify_state_save=0",
        "--randseed=7", "--end_fsync=1", "--invalidate=1", "--thread", *options,
        cwd=place,
    )  # fmt: skip


@needs("dbench")
def test_dbench_does_its_work_without_a_complaint(place: Path) -> None:
    output = run("dbench", "-t", "4", "-D", str(place), "4", cwd=place)
    assert "Throughput" in output
    assert re.findall(r"^[\[(]\d+[\])] .*", output, re.MULTILINE) == []
