"""What is wrong, and what came of it: the one language in which every part of the checker reports.

A finding names its kind, the place, and a sentence for people. It is *mendable* where redundancy
or the log knows better: then `remedy` says what a repair would do. Where nothing knows better it is
a *loss*, and stays until the user removes what is lost: repair never hides one.

A report counts all of them, and keeps the first of each kind: a million findings are no reason to
run out of memory.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum


class Exit(IntEnum):
    """Exit codes, as fsck(8) has them."""

    CLEAN = 0
    REPAIRED = 1
    LEFT = 4
    """Something is wrong and was not repaired, whatever else was."""
    FAILED = 8
    """It could not run; what it would have found is not known."""
    USAGE = 16
    INTERRUPTED = 32


KEPT_PER_KIND = 1000
"""Findings of each kind that a report keeps; all are counted."""


class Kind(StrEnum):
    """Every kind of finding. The words are what `--json` has, and stay as they are.

    Those of one part of the checker stand together, with what each means.
    """

    # -- the catalog's file and the log it comes from (`opening`)
    CATALOG_DOUBTFUL = "catalog-doubtful"
    """The catalog is missing, damaged, older than the log, or of another filesystem."""
    LOG_CORRUPT = "log-corrupt"
    """Frames of the journal that were durable are missing or damaged."""

    # -- the catalog against itself (`tables`)
    ROW_UNREADABLE = "row-unreadable"
    """A row fails its checksum, or is not what rows of its table are."""
    INODE_MISSING = "inode-missing"
    """There are names in it or bytes of it, and the row of an inode is missing."""
    INODE_WRONG = "inode-wrong"
    """An inode has a type that there is none of, or a size that none of its type has."""
    LINKS_WRONG = "links-wrong"
    """An inode has another number of names than it says."""
    ENTRIES_WRONG = "entries-wrong"
    """A directory has another number of entries than it says."""
    PARENT_WRONG = "parent-wrong"
    """A directory is in another one than it says."""
    UNREACHABLE = "unreachable"
    """An inode has no name, and was not removed."""
    DIRECTORY_CIRCLE = "directory-circle"
    """Directories are inside each other, and the root does not lead to them."""
    DIRECTORY_LINKED = "directory-linked"
    """A directory has two names."""
    NAME_DANGLING = "name-dangling"
    """A name leads to an inode that is missing."""
    NAME_STRAY = "name-stray"
    """A name is in what is no directory."""
    NAME_BAD = "name-bad"
    """A name that no file may have."""
    NAME_TYPE = "name-type"
    """A name says another type than its inode has."""
    COOKIE_WRONG = "cookie-wrong"
    """A directory's reading order lacks one of its names, or has one that it has not."""
    COOKIE_SHARED = "cookie-shared"
    """Two names have one place in their directory's reading order, or one has none."""
    COOKIE_NEXT = "cookie-next"
    """The next name in a directory would get a place that one has."""
    EXTENT_GAP = "extent-gap"
    """No extent holds some bytes of a file: reading them gives an error."""
    EXTENT_OVERLAP = "extent-overlap"
    """Two extents hold the same bytes of a file."""
    EXTENT_BEYOND = "extent-beyond"
    """There are extents behind the end of a file, or of what is none."""
    EXTENT_ADDRESS = "extent-address"
    """An extent lies where its archived segment has nothing."""
    ALLOCATED_WRONG = "allocated-wrong"
    """More or fewer bytes of a file are stored than its inode says."""
    MARK_WRONG = "mark-wrong"
    """Bytes of a file are marked to be deleted."""
    ORPHAN_WRONG = "orphan-wrong"
    """An inode that has a name, or is not there, is marked as one whose last name was removed."""
    XATTR_STRAY = "xattr-stray"
    """An extended attribute of no inode."""
    USAGE_WRONG = "usage-wrong"
    """Another number of bytes lives in a segment than is counted for it."""
    NUMBER_TAKEN = "number-taken"
    """A number would be given out that something has."""
    STATE_WRONG = "state-wrong"
    """A state row names a segment that is not there."""

    # -- the catalog against what lies on the drives (`places`)
    SEGMENT_MISSING = "segment-missing"
    """A workspace segment in which something lives, or a part of the journal or of the snapshot
    that counts, is on no drive."""
    COPY_MISSING = "copy-missing"
    """A segment that is needed is on fewer drives than the workspace keeps copies."""
    SEGMENT_FOREIGN = "segment-foreign"
    """The SEGMENT frame of a copy does not verify, or is that of another segment."""
    SEGMENT_SHORT = "segment-short"
    """A copy ends before the last frame that is needed."""
    SEGMENT_UNREADABLE = "segment-unreadable"
    """A drive answers with an error where a copy is read."""
    FRAME_DAMAGED = "frame-damaged"
    """The frame that an extent names is not there: its header does not verify or says otherwise."""
    CHAIN_BROKEN = "chain-broken"
    """The headers of a data segment's copy cannot be walked up to the last frame that is needed."""
    JOURNAL_DAMAGED = "journal-damaged"
    """The journal since the snapshot is not whole on a copy."""
    SNAPSHOT_DAMAGED = "snapshot-damaged"
    """The newest snapshot of the workspace is not whole on a copy."""
    FILE_LOST = "file-lost"
    """Bytes of a file are in no place from which they could be read or decoded."""
    FRAGMENT_MISSING = "fragment-missing"
    """A fragment is not on its drive, which is there."""
    FRAGMENT_LENGTH = "fragment-length"
    """A fragment has not the length that its row gives it."""
    FRAGMENT_FOREIGN = "fragment-foreign"
    """A whole fragment, but not the one that the row names: another segment, number, generation."""
    FRAGMENT_HEADER = "fragment-header"
    """The header of a fragment does not verify, or is not that of its footer."""
    FRAGMENT_FOOTER = "fragment-footer"
    """The footer of a fragment does not verify: nothing of it can be used."""
    FRAGMENT_TABLE = "fragment-table"
    """The table of a fragment does not verify, or is not that of its siblings."""
    FRAGMENT_UNREADABLE = "fragment-unreadable"
    """A drive answers with an error where a fragment is read."""
    DRIVE_MISSING = "drive-missing"
    """A member of a pool, or a drive that rows name, is not there."""
    STRAY = "stray"
    """A fragment that no row names, and that no shift can have left."""
    ARCHIVE_NEWER = "archive-newer"
    """An archive drive has what was written after all that the log knows of."""
    UNKNOWN_GENERATION = "unknown-generation"
    """A fragment or a copy of a snapshot was written behind what a workspace was made anew from,
    and no row names it: it may be all that is left of what came later."""
    SNAPSHOT_COPIES = "snapshot-copies"
    """Too few drives of an archive pool have a whole copy of one and the same snapshot."""
    SNAPSHOT_COPY_DAMAGED = "snapshot-copy-damaged"
    """A copy of a snapshot on an archive drive is not whole."""
    SUPERBLOCK_DAMAGED = "superblock-damaged"
    """A superblock does not verify, and an older one counts in its stead."""
    SUPERBLOCK_OLD = "superblock-old"
    """A superblock is of a lower generation than its pool, or names other members."""
    SUPERBLOCK_FOREIGN = "superblock-foreign"
    """A superblock is of another filesystem, pool or drive than it is known for."""

    # -- bytes that do not match their checksums (`scrub`)
    UNIT_DAMAGED = "unit-damaged"
    """A unit of a fragment cannot be read, or does not match its sum."""
    BYTES_DAMAGED = "bytes-damaged"
    """Bytes of files in a copy of a data segment cannot be read, or do not match their checksum."""

    # -- drives without a configuration, and files written out of them (`foreign`, `decode`)
    DRIVE_UNUSABLE = "drive-unusable"
    """A directory that was given is no drive, does not answer, or cannot be understood."""
    FILE_INCOMPLETE = "file-incomplete"
    """Some bytes of a file cannot be had from the drives that are there."""
    TREE_TWISTED = "tree-twisted"
    """A name leads to nothing, to a directory that has another name, or to no known type."""
    NAMES_LOST = "names-lost"
    """Files of which no drive that is there knows the names: they are in lost+found."""
    NAME_REFUSED = "name-refused"
    """A name that no file may have: it was not written out."""
    NOT_WRITTEN = "not-written"
    """Something could not be written to the destination, or another is there already."""
    ATTRIBUTES_LEFT = "attributes-left"
    """A file was written without some of its owner, mode, times or extended attributes."""

    # -- the catalog out of drives (`rebuild_catalog`)
    CATALOG_REBUILT = "catalog-rebuilt"
    """The catalog was made anew from the log."""
    WORKSPACE_GONE = "workspace-gone"
    """There is nothing on the drives of the workspace, and archive drives tell of a filesystem."""
    FOUND_BY_FOOTER = "found-by-footer"
    """Files that no row knows, and bytes of files whose rows lead to what is gone: only the footers
    of fragments told of them."""
    ROWS_REFUSED = "rows-refused"
    """Rows in the log that could not have been made by any operation, and were left out."""

    # -- what a rehearsed loss would cost (`drill`)
    REBUILD_FAILED = "rebuild-failed"
    """Without the catalog and the drives that were taken away the tree could not be rebuilt."""
    REBUILD_DIFFERS = "rebuild-differs"
    """A row of the rebuilt catalog is another than in the real one."""
    REBUILD_ALONE = "rebuild-alone"
    """The archive drives that are left have no whole snapshot among them."""
    REBUILD_UNREADABLE = "rebuild-unreadable"
    """Bytes that could not be read without the drives that were taken away, or were others."""


@dataclass(frozen=True, slots=True)
class Where:
    """The place: what is known of it. `drive` is a path, or an id where no such drive is there.

    `path` is a path from the top of the filesystem, with bytes that are no UTF-8 escaped as Python
    does (surrogateescape); `offset` and `length` are bytes, of the file if there is an inode, else
    of the segment.
    """

    drive: str | None = None
    segment: int | None = None
    fragment: int | None = None
    generation: int | None = None
    unit: int | None = None
    inode: int | None = None
    path: str | None = None
    offset: int | None = None
    length: int | None = None


NOWHERE = Where()


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong. `message` is a sentence without a full stop, complete in itself.

    `remedy` is what a repair does about it, as a sentence in the infinitive ("write fragment 3 of
    segment 9 anew from the others"); None: nothing can be done with what is there, and `message`
    says what is lost.
    """

    kind: Kind
    message: str
    where: Where = NOWHERE
    remedy: str | None = None

    @property
    def is_loss(self) -> bool:
        return self.remedy is None


@dataclass(slots=True)
class Report:
    """What one run of the checker came to. Filled while it runs, and given out at its end.

    `job` is the subcommand, `filesystem` the id, `name` what people call it; `as_of_ns` the time of
    the checkpoint that was looked at, None where it is the present; `mounted` says that the
    filesystem was in use, and nothing was changed.
    `repaired` are findings that were put right; those in `findings` are not, or not yet.
    `notes` are sentences for people that are no findings: what was done, what to do next;
    `looked_at` is one that says how much there was, `next_step` one with the command to run next.
    `stopped`: somebody stopped it before its end.
    """

    job: str
    filesystem: str = ""
    mounted: bool = False
    as_of_ns: int | None = None
    findings: list[Finding] = field(default_factory=list)
    repaired: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    repaired_counts: Counter[str] = field(default_factory=Counter)
    stopped: bool = False
    name: str = ""
    looked_at: str = ""
    next_step: str = ""

    def find(self, finding: Finding) -> None:
        """Something is wrong."""
        self.counts[finding.kind] += 1
        if self.counts[finding.kind] <= KEPT_PER_KIND:
            self.findings.append(finding)

    def mend(self, finding: Finding) -> None:
        """It was put right: by this run, and seen to be."""
        self.repaired_counts[finding.kind] += 1
        if self.repaired_counts[finding.kind] <= KEPT_PER_KIND:
            self.repaired.append(finding)

    @property
    def is_clean(self) -> bool:
        return not self.counts

    @property
    def exit_code(self) -> Exit:
        if self.stopped:
            return Exit.INTERRUPTED
        if self.counts:
            return Exit.LEFT
        return Exit.REPAIRED if self.repaired_counts else Exit.CLEAN
