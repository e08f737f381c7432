"""sqlite in every journal mode with concurrent writers; a PostgreSQL cluster that is cut off."""

from __future__ import annotations

import os
import pwd
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.programs.running import needs, run

pytestmark = pytest.mark.programs

WRITERS, TRANSACTIONS = 4, 25

WRITER = """
import sqlite3, sys
path, mode, writer, count = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
database = sqlite3.connect(path, timeout=60, isolation_level=None)
database.execute(f"PRAGMA journal_mode={mode}")
for index in range(count):
    database.execute("BEGIN IMMEDIATE")
    total = database.execute("SELECT total FROM sums").fetchone()[0]
    database.execute("UPDATE sums SET total = ?", (total + 1,))
    for row in range(10):
        database.execute(
            "INSERT INTO entries VALUES (?, ?, ?, ?)",
            (writer, index, row, "text %d %d " % (writer, index) * 20),
        )
    if index % 7 == 3:
        database.execute("ROLLBACK")
    else:
        database.execute("COMMIT")
database.close()
"""


@pytest.mark.parametrize("mode", ["delete", "truncate", "persist", "wal", "memory", "off"])
def test_sqlite_keeps_every_transaction_of_four_writers(place: Path, mode: str) -> None:
    path = place / "database"
    with sqlite3.connect(path) as database:
        assert database.execute(f"PRAGMA journal_mode={mode}").fetchone()[0] == mode
        database.execute("CREATE TABLE sums (total INTEGER)")
        database.execute("INSERT INTO sums VALUES (0)")
        database.execute("CREATE TABLE entries (writer, number, line, content)")
        database.execute("CREATE INDEX by_content ON entries (content, writer)")
    database.close()
    # Without a journal there is no ROLLBACK: these writers commit everything.
    script = WRITER.replace("index % 7 == 3", "False") if mode == "off" else WRITER
    writers = [
        subprocess.Popen([sys.executable, "-c", script, path, mode, str(n), str(TRANSACTIONS)])
        for n in range(WRITERS)
    ]
    try:
        assert [writer.wait(timeout=90) for writer in writers] == [0] * WRITERS
    finally:
        for writer in writers:
            writer.kill()
    rolled_back = 0 if mode == "off" else len(range(3, TRANSACTIONS, 7))
    kept = WRITERS * (TRANSACTIONS - rolled_back)
    with sqlite3.connect(path) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert database.execute("SELECT total FROM sums").fetchone() == (kept,)
        assert database.execute("SELECT count(*) FROM entries").fetchone() == (kept * 10,)
        database.execute("VACUUM")
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    database.close()


def _postgres_programs() -> Path | None:
    """The directory of initdb: on the path, or where Debian keeps it; None if there is none."""
    found = shutil.which("initdb")
    if found:
        return Path(os.path.realpath(found)).parent
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return places[-1].parent if places else None


class Cluster:
    """A PostgreSQL cluster below `top`, reached through a socket there only."""

    def __init__(self, programs: Path, top: Path, user: pwd.struct_passwd) -> None:
        self.programs = programs
        self.top = top
        self.data = top / "data"
        self.user = user
        os.chown(top, user.pw_uid, user.pw_gid)

    def run(self, program: str, *words: str, limit_s: float = 60) -> str:
        return run(
            self.programs / program,
            *words,
            cwd=self.top,
            limit_s=limit_s,
            user=self.user.pw_uid,
            group=self.user.pw_gid,
            environment={
                "PGHOST": str(self.top),
                "PGDATABASE": "postgres",
                "PGUSER": "tester",
                "HOME": str(self.top),
                "PGOPTIONS": "--client-min-messages=warning",
            },
        )

    def start(self) -> None:
        settings = (
            f"-c listen_addresses= -c unix_socket_directories={self.top} -c shared_buffers=16MB"
            " -c max_connections=12 -c autovacuum_naptime=1 -c wal_init_zero=on"
        )
        self.run(
            "pg_ctl",
            "-D",
            str(self.data),
            "-l",
            str(self.top / "log"),
            "-w",
            "-t",
            "40",
            "-o",
            settings,
            "start",
        )

    def stop(self, how: str) -> None:
        self.run("pg_ctl", "-D", str(self.data), "-m", how, "-w", "-t", "40", "stop")

    def ask(self, query: str) -> str:
        return self.run("psql", "-XAtqc", query).strip()


@pytest.fixture
def cluster(place: Path) -> Iterator[Cluster]:
    programs = _postgres_programs()
    if programs is None or not (programs / "pgbench").exists():
        pytest.skip("needs PostgreSQL's initdb and pgbench")
    if os.geteuid() == 0:
        names = {entry.pw_name: entry for entry in pwd.getpwall()}
        user = names.get("postgres") or names["nobody"]
    else:
        user = pwd.getpwuid(os.geteuid())
    made = Cluster(programs, place, user)
    made.run(
        "initdb",
        "-D",
        str(made.data),
        "-U",
        "tester",
        "-A",
        "trust",
        "--data-checksums",
        "--locale=C",
        "-E",
        "UTF8",
    )
    try:
        yield made
    finally:
        if (made.data / "postmaster.pid").exists():
            made.stop("immediate")


@needs("bash")
@pytest.mark.root
def test_a_postgresql_cluster_survives_being_cut_off(cluster: Cluster) -> None:
    cluster.start()
    cluster.run("pgbench", "-i", "-q", "-s", "1")
    done = 0
    for _ in range(2):
        cluster.run("pgbench", "-n", "-c", "4", "-j", "2", "-t", "100")
        done += 400
        cluster.stop("immediate")
        cluster.start()
        assert cluster.ask("SELECT count(*) FROM pgbench_history") == str(done)
        sums = cluster.ask(
            "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = sum(delta) AND"
            " (SELECT sum(bbalance) FROM pgbench_branches) = sum(delta) AND"
            " (SELECT sum(tbalance) FROM pgbench_tellers) = sum(delta) FROM pgbench_history"
        )
        assert sums == "t"
    cluster.run("vacuumdb", "--full", "--analyze", "-q")
    cluster.ask("CREATE EXTENSION amcheck")
    cluster.run("pg_amcheck", "--heapallindexed", "postgres")
    cluster.stop("fast")
    cluster.run("pg_checksums", "--check", "-D", str(cluster.data))
