"""The volume against the model filesystem: random operations, errnos, remounts, maintenance.

Hypothesis chooses and shrinks the operations; `shmr.testing.trial` does each on both and
compares. A failure prints the shortest list of operations that shows it.
"""

from __future__ import annotations

import stat
from contextlib import ExitStack

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from shmr.testing.trial import Trial, scratch, tight_limits
from shmr.testing.workload import DIRECTORIES, MAINTENANCE, SLOTS, XATTRS, Operation
from shmr.units import KIB

NAMES = (b"a", b"b", b"c", b"long" * 63 + b"ends", b"." * 2)
anywhere = st.builds(
    lambda directory, name: directory.rstrip(b"/") + b"/" + name,
    st.sampled_from(DIRECTORIES),
    st.sampled_from(NAMES),
) | st.sampled_from(DIRECTORIES)
files = st.sampled_from((b"/a", b"/d/a"))
paths = files | anywhere
in_files = files | files | files | paths
"""Most of them are there from the beginning: what is refused shows nothing of a file's content."""
offsets = st.sampled_from((0, 1, 4095, 4096, 65_536, 100_000, 1 << 40, 2**63 - 2)) | st.integers(
    0, 300_000
)
lengths = st.sampled_from((0, 1, 4096, 70_000)) | st.integers(1, 300_000)
seeds = st.integers(0, 2**32)
spans = lengths | lengths | lengths | st.sampled_from((-1, 2**63 - 1))
sizes = st.sampled_from((-1, 0, 1, 4096, 2**63 - 1, 2**63)) | st.integers(0, 400_000)
modes = st.sampled_from((0o644, 0o755, 0o2775, 0o6777, 0))
kinds = st.sampled_from((stat.S_IFREG, stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFSOCK))
times = st.sampled_from((0, -1, -(2**63), 2**64 - 1, 2**70, 1_700_000_000_000_000_001))
slots = st.integers(0, SLOTS - 1)
maintenance = st.sampled_from([verb for verb in MAINTENANCE if verb != "plan"])


class VolumeAgainstModel(RuleBasedStateMachine):
    """Each rule is one operation on both."""

    def __init__(self) -> None:
        super().__init__()
        self._stack = ExitStack()
        self.trial: Trial

    @initialize(copies=st.sampled_from((1, 2)), size=st.sampled_from((256 * KIB, 1024 * KIB)))
    def begin(self, copies: int, size: int) -> None:
        place = self._stack.enter_context(scratch())
        self._stack.enter_context(tight_limits())
        self.trial = Trial(place, copies=copies, segment_bytes=size)
        self.trial.start()
        self._do("create", b"/d", stat.S_IFDIR | 0o777, 0, b"")
        for path in (b"/a", b"/d/a"):
            self._do("create", path, stat.S_IFREG | 0o644, 0, b"")
            self._do("write", path, 5000, 70_000, 1)

    def _do(self, verb: str, *arguments: object) -> None:
        self.trial.run(Operation(verb, arguments))

    @rule(path=paths, kind=kinds, mode=modes)
    def create(self, path: bytes, kind: int, mode: int) -> None:
        self._do("create", path, kind | mode, 0, b"target" if kind == stat.S_IFLNK else b"")

    @rule(path=paths, new=paths)
    def link(self, path: bytes, new: bytes) -> None:
        self._do("link", path, new)

    @rule(path=anywhere)
    def unlink(self, path: bytes) -> None:
        self._do("unlink", path)

    @rule(path=paths)
    def rmdir(self, path: bytes) -> None:
        self._do("rmdir", path)

    @rule(path=paths, new=paths, flags=st.integers(0, 4))
    def rename(self, path: bytes, new: bytes, flags: int) -> None:
        self._do("rename", path, new, flags)

    @rule(path=in_files, offset=offsets, length=lengths, seed=seeds)
    def write(self, path: bytes, offset: int, length: int, seed: int) -> None:
        self._do("write", path, offset, length, seed)

    @rule(path=in_files, size=sizes)
    def truncate(self, path: bytes, size: int) -> None:
        self._do("truncate", path, size)

    @rule(path=in_files, size=sizes)
    def cut(self, path: bytes, size: int) -> None:
        self._do("cut", path, size)

    @rule(path=in_files, offset=offsets, length=spans)
    def punch(self, path: bytes, offset: int, length: int) -> None:
        self._do("punch", path, offset, length)

    @rule(path=in_files, offset=offsets, length=spans, keep_size=st.booleans())
    def zero(self, path: bytes, offset: int, length: int, keep_size: bool) -> None:
        self._do("zero", path, offset, length, keep_size)

    @rule(path=in_files, offset=offsets, length=spans, keep_size=st.booleans())
    def allocate(self, path: bytes, offset: int, length: int, keep_size: bool) -> None:
        self._do("allocate", path, offset, length, keep_size)

    @rule(path=in_files, offset=offsets | sizes, hole=st.booleans())
    def seek(self, path: bytes, offset: int, hole: bool) -> None:
        self._do("seek", path, offset, hole)

    @rule(path=paths, mode=modes, uid=st.integers(0, 3), time=times)
    def attributes(self, path: bytes, mode: int, uid: int, time: int) -> None:
        self._do("attributes", path, mode, uid, time)

    @rule(path=paths, name=st.sampled_from(XATTRS), length=st.integers(0, 66_000), seed=seeds)
    def set_xattr(self, path: bytes, name: bytes, length: int, seed: int) -> None:
        self._do("set_xattr", path, name, length, seed)

    @rule(path=paths, name=st.sampled_from(XATTRS))
    def remove_xattr(self, path: bytes, name: bytes) -> None:
        self._do("remove_xattr", path, name)

    @rule(slot=slots, path=paths)
    def open(self, slot: int, path: bytes) -> None:
        self._do("open", slot, path)

    @rule(slot=slots, offset=offsets, length=lengths, seed=seeds)
    def write_open(self, slot: int, offset: int, length: int, seed: int) -> None:
        self._do("write_open", slot, offset, length, seed)

    @rule(slot=slots)
    def close(self, slot: int) -> None:
        self._do("close", slot)

    @rule(verb=maintenance)
    def maintain(self, verb: str) -> None:
        self._do(verb)

    @rule(path=paths, offset=offsets, length=lengths)
    def plan(self, path: bytes, offset: int, length: int) -> None:
        self._do("plan", path, offset, length)

    @precondition(lambda self: len(self.trial.done) > 8)
    @rule(how=st.sampled_from(("clean", "kill", "rebuild")))
    def remount(self, how: str) -> None:
        self.trial.remount(how)

    @rule()
    def compare(self) -> None:
        self.trial.compare()

    def teardown(self) -> None:
        try:
            if hasattr(self, "trial") and hasattr(self.trial, "volume"):
                self.trial.finish()
                self.trial.compare()
                self.trial.volume.abandon()
        finally:
            self._stack.close()


TestVolumeAgainstModel = VolumeAgainstModel.TestCase
TestVolumeAgainstModel.settings = settings(
    max_examples=200,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
