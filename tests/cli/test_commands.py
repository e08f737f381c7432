"""Commands: what they ask of the library, what they print, and their exit codes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import pytest

from shmr.cli.library import Service
from shmr.cli.main import COMMANDS, main
from shmr.errors import ConfigError, DriveError, SetupError

NAMES = [command.__name__.rpartition(".")[2] for command in COMMANDS]
CONFIG, PLACE = Path("media.yaml"), Path("/srv/media")
DEFAULTS = {"options": (), "foreground": False, "read_only": False, "degraded": False}


class Recorder:
    """A service that remembers what it was asked, and fails as told."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error
        self.calls: list[tuple[object, ...]] = []

    def _called(self, *call: object) -> None:
        self.calls.append(call)
        if self.error is not None:
            raise self.error

    def create(self, config_path: Path) -> None:
        self._called("create", config_path)

    def mount(
        self,
        config_path: Path,
        mountpoint: Path,
        *,
        options: Sequence[str] = (),
        foreground: bool = False,
        read_only: bool = False,
        degraded: bool = False,
    ) -> None:
        given = {
            "options": options,
            "foreground": foreground,
            "read_only": read_only,
            "degraded": degraded,
        }
        self._called("mount", config_path, mountpoint, given)

    def unmount(self, mountpoint: Path) -> None:
        self._called("unmount", mountpoint)


def run(line: str, error: BaseException | None = None) -> tuple[int, list[tuple[object, ...]]]:
    recorder = Recorder(error)
    service = cast(Service, recorder)
    return main(line.split(), load=lambda: service), recorder.calls


@pytest.mark.parametrize(
    ("options", "changes"),
    [
        ("", {}),
        ("--foreground", {"foreground": True}),
        ("--read-only", {"read_only": True}),
        ("--degraded", {"degraded": True}),
        ("-o allow_other", {"options": ("allow_other",)}),
        ("-o allow_other,,nosuid -o noexec", {"options": ("allow_other", "nosuid", "noexec")}),
        ("-o ro", {"options": ("ro",), "read_only": True}),
    ],
)
def test_mount_passes_its_options_on(options: str, changes: dict[str, object]) -> None:
    code, calls = run(f"mount {options} media.yaml /srv/media")
    assert (code, calls) == (0, [("mount", CONFIG, PLACE, {**DEFAULTS, **changes})])


def test_options_may_stand_after_the_mount_point() -> None:
    _, calls = run("mount media.yaml /srv/media -o allow_other")
    assert calls == [("mount", CONFIG, PLACE, {**DEFAULTS, "options": ("allow_other",)})]


def test_umount_and_create_name_their_object() -> None:
    assert run("umount /srv/media") == (0, [("unmount", PLACE)])
    assert run("create media.yaml") == (0, [("create", CONFIG)])


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (SetupError("nothing is mounted at /srv/media"), "nothing is mounted at /srv/media"),
        (ConfigError("a.yaml", ["pools: missing"]), "a.yaml: 1 problem(s):\n  pools: missing"),
        (FileNotFoundError(2, "No such file", "/srv/media"), "/srv/media: No such file"),
        (DriveError("/mnt/a", "sync", OSError(5, "I/O error")), "drive /mnt/a: sync failed:"),
    ],
)
def test_an_error_is_one_message_and_exit_code_1(
    capsys: pytest.CaptureFixture[str], error: Exception, message: str
) -> None:
    assert run("umount /srv/media", error)[0] == 1
    output = capsys.readouterr()
    assert output.err.startswith(f"shmr umount: {message}")
    assert "Traceback" not in output.err
    assert output.out == ""


def test_an_interrupt_is_exit_code_130(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("create media.yaml", KeyboardInterrupt())[0] == 130
    assert capsys.readouterr().err == "shmr create: interrupted\n"


def test_a_mistake_of_ours_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        run("create media.yaml", ZeroDivisionError())


@pytest.mark.parametrize(
    "line", ["", "mount", "mount a", "umount", "create", "fly", "mount a b c", "inspect a"]
)
def test_a_wrong_command_line_is_exit_code_2(capsys: pytest.CaptureFixture[str], line: str) -> None:
    with pytest.raises(SystemExit) as caught:
        run(line)
    assert caught.value.code == 2
    assert "usage: shmr" in capsys.readouterr().err


@pytest.mark.parametrize("name", NAMES)
def test_every_command_has_help_with_an_example(
    capsys: pytest.CaptureFixture[str], name: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        run(f"{name} --help")
    assert caught.value.code == 0
    assert f"example:\n  shmr {name} " in capsys.readouterr().out


def test_help_needs_no_trio() -> None:
    code = (
        "import sys\nsys.modules['trio'] = None\nfrom shmr.cli.main import main\nmain(['--help'])\n"
    )
    root = Path(__file__).parents[2]
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert "mount" in result.stdout
