"""Maintenance of a mounted volume: what ends the mount."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import trio

from shmr.catalog.catalog import CatalogFailed
from shmr.errors import Refused
from shmr.format.rows import ROOT
from shmr.service.mounted.committer import Committer
from shmr.service.mounted.maintenance import Maintenance
from tests.archive.site import ME, Site, pool_of, small_limits

LIMIT_S = 30


def test_a_catalog_that_lmdb_refuses_ends_the_mount_and_the_next_recovers(tmp_path: Path) -> None:
    """After a put that failed LMDB refuses every call: each request would be EIO, for ever."""

    async def serve() -> None:
        with trio.fail_after(LIMIT_S):
            committer = Committer(volume, lambda job, ended: None)
            await Maintenance(volume, committer).run()

    with small_limits():
        site = Site(tmp_path, pool_of("mirror"))
        volume = site.open()
        volume.names.create(ROOT, b"durable", 0o100644, ME)
        volume.commits.now()
        volume.catalog._tables._transaction.abort()  # as a put does that fails
        with pytest.RaisesGroup(CatalogFailed):
            trio.run(serve)
        volume.abandon()
        volume = site.open()
        assert volume.names.lookup(ROOT, b"durable").links == 1
        with pytest.raises(Refused) as refused:
            volume.names.lookup(ROOT, b"never")
        assert refused.value.errno == errno.ENOENT
        volume.close()
