"""git: commit, clone, gc, fsck and worktrees of a few hundred files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.programs.running import needs, run

pytestmark = [pytest.mark.programs, needs("git")]

WHO = {
    "GIT_AUTHOR_NAME": "A",
    "GIT_AUTHOR_EMAIL": "a@example.org",
    "GIT_COMMITTER_NAME": "A",
    "GIT_COMMITTER_EMAIL": "a@example.org",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
}


def git(where: Path, *words: str) -> str:
    return run("git", "-c", "core.fsync=all", *words, cwd=where, environment=WHO)


def test_a_repository_of_300_files_lives_through_everything(place: Path) -> None:
    origin = place / "origin"
    origin.mkdir()
    git(origin, "init", "-q", "-b", "main")
    for index in range(300):
        path = origin / f"directory{index % 11}" / f"file{index}"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"content {index}\n" * (index + 1))
    (origin / "program").write_text("#!/bin/sh\n")
    (origin / "program").chmod(0o755)
    (origin / "link").symlink_to("program")
    git(origin, "add", ".")
    git(origin, "commit", "-qm", "everything")
    assert git(origin, "status", "--porcelain") == ""
    for index in range(3):
        (origin / f"directory{index}" / f"file{index}").write_text("changed\n")
        git(origin, "commit", "-qam", f"change {index}")
    git(origin, "mv", "directory5", "moved")
    git(origin, "commit", "-qm", "move")

    git(place, "clone", "-q", "origin", "linked")
    git(place, "clone", "-q", "--no-local", "origin", "copied")
    git(origin, "gc", "-q", "--prune=now")
    git(origin, "repack", "-qad")
    git(place / "linked", "worktree", "add", "-q", "../worktree", "-b", "side")
    (place / "worktree" / "side").write_text("side\n")
    git(place / "worktree", "add", "side")
    git(place / "worktree", "commit", "-qm", "side")
    git(place / "linked", "merge", "-q", "--no-edit", "side")
    git(place / "linked", "push", "-q", "origin", "side")
    git(place / "linked", "gc", "-q")
    for name in ("origin", "linked", "copied", "worktree"):
        git(place / name, "fsck", "--full", "--strict")
        assert git(place / name, "status", "--porcelain") == ""
    assert (place / "copied" / "link").is_symlink()
    assert os.access(place / "copied" / "program", os.X_OK)
    assert git(origin, "rev-parse", "side") == git(place / "worktree", "rev-parse", "HEAD")
    git(place / "linked", "worktree", "remove", "../worktree")
    assert not (place / "worktree").exists()


def test_switching_branches_restores_every_file(place: Path) -> None:
    git(place, "init", "-q", "-b", "main")
    for branch in ("one", "two"):
        git(place, "checkout", "-q", "--orphan", branch)
        for index in range(60):
            (place / f"{index}").write_text(f"{branch} {index}\n" * 50)
        git(place, "add", ".")
        git(place, "commit", "-qm", branch)
    for branch in ("one", "two") * 3:
        git(place, "checkout", "-q", branch)
        assert git(place, "status", "--porcelain") == ""
        assert (place / "59").read_text() == f"{branch} 59\n" * 50
