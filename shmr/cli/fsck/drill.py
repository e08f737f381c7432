"""`shmr-fsck drill`: a rehearsal of a loss."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from shmr.cli.fsck.show import as_plain, show_report
from shmr.cli.jobs import rate
from shmr.cli.library import load
from shmr.cli.progress import Progress, stop_asked
from shmr.units import format_size

if TYPE_CHECKING:
    from shmr.fsck.rehearsing.drill import Drill
    from shmr.service.following import Stop, Watcher

_DESCRIPTION = """\
Rehearse a loss: pretend that the catalog is gone, and as many drives of each pool as it may lose;
rebuild the tree from what is left, compare it with the real one, and read contents without these
drives. Nothing is changed; works while the filesystem is mounted, too. Which drives are taken away
is decided by the day, so that a drill every day meets them all; or by --seed.
"""
_EPILOG = """\
exit codes: 0 all of it could be rebuilt, 4 something could not, 8 it could not run, 32 interrupted

example:
  shmr-fsck drill /etc/shmr/media.yaml --sample 5% --limit-rate 50MiB
"""


class DrillLibrary(Protocol):
    """What this command needs of `shmr.fsck.rehearsing.drill`."""

    def drill(
        self,
        config_path: Path,
        *,
        share: float,
        seed: int | None,
        scratch: Path | None,
        limit_rate: int | None,
        watcher: Watcher | None,
        stop: Stop,
    ) -> Drill: ...


def add_parser(commands: Any) -> None:
    """Add `drill` to the subcommands."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "drill",
        help="rehearse the loss of the catalog and of drives; changes nothing",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    add = parser.add_argument
    add("config", metavar="CONFIG", type=Path, help="the YAML configuration")
    contents = parser.add_mutually_exclusive_group()
    contents.add_argument(
        "--all", action="store_const", const=1.0, dest="share", help="read all contents"
    )
    contents.add_argument(
        "--sample",
        metavar="SHARE",
        type=_share,
        dest="share",
        help="read this share of the contents, such as 5%% or 0.05 (default: 2%%)",
    )
    parser.set_defaults(share=0.02)
    add("--seed", metavar="N", type=_seed, help="which drives, and which contents")
    add("--scratch", metavar="DIR", type=Path, help="where to rebuild (default: where files go)")
    add("--limit-rate", metavar="RATE", type=rate, help="read no more than this in a second")
    add("--json", action="store_true", help="print the report as JSON")


def _share(text: str) -> float:
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0.0 <= share <= 1.0:
        raise argparse.ArgumentTypeError(f"expected a share such as 5% or 0.05, found {text!r}")
    return share


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a number, found {text!r}")
    return int(text)


def run(arguments: argparse.Namespace) -> int:
    """Returns the exit code."""
    library = cast(DrillLibrary, load("shmr.fsck.rehearsing.drill"))
    with stop_asked() as stop, Progress("drill", 0) as progress:

        def show(phase: str, size: int, total: int) -> None:
            progress.update(size, total_bytes=total, note=phase)

        done = library.drill(
            arguments.config,
            share=arguments.share,
            seed=arguments.seed,
            scratch=arguments.scratch,
            limit_rate=arguments.limit_rate,
            watcher=show,
            stop=stop,
        )
    print(drill_json(done) if arguments.json else show_drill(done))
    return int(done.report.exit_code)


def drill_json(done: Drill) -> str:
    """The report, and what else a drill has."""
    return json.dumps(
        {
            **as_plain(done.report),
            "seed": done.seed,
            "share": done.share,
            "away": done.away,
            "source": done.source,
            "rows": done.compared.rows,
            "rows_differing": done.compared.differing,
            "digest": done.compared.digest,
            "digest_rebuilt": done.compared.rebuilt,
            "read": {k: v for k, v in dataclasses.asdict(done.tried).items() if k != "findings"},
            "unarchived": dataclasses.asdict(done.unarchived),
            "seconds": done.seconds,
        },
        indent=2,
    )


def show_drill(done: Drill) -> str:
    """What people read."""
    lines = [f"taken away with the catalog (seed {done.seed}):"]
    for pool, drives in done.away.items():
        lines.append(f"  {pool}: {', '.join(drives) or 'nothing: it may lose no drive'}")
    compared, tried, lost = done.compared, done.tried, done.unarchived
    if compared.digest:
        lines.append(
            f"rebuilt from the {done.source}: {compared.rows} rows, {compared.differing} of them "
            f"differ; digest {compared.digest}"
        )
    lines.append(
        f"read without these drives: {format_size(tried.read_bytes)} of {tried.segments} archived "
        f"segments and {tried.files} files of the workspace; {format_size(tried.decoded_bytes)} "
        f"decoded, {format_size(tried.compared_bytes)} compared with what was taken away"
    )
    told = (
        f"if the workspace were lost now: {lost.files} files, {format_size(lost.size_bytes)} are "
        "not yet in an archive"
    )
    if lost.unknown is not None:
        told += f"; {lost.unknown} files and directories are newer than the snapshot there"
    lines.append(told)
    took = (f"{name} {seconds:.1f} s" for name, seconds in done.seconds.items())
    lines.append(f"took: {', '.join(took)}")
    return "\n".join([*lines, show_report(done.report)])
