"""Configurations: what a good one means, and that a bad one is told everything at once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from shmr.config import Config, DriveConfig, Rule, Scheme, load, parse
from shmr.errors import ConfigError, SetupError
from shmr.units import GIB, MIB, NS_PER_S

SOURCE = "/etc/shmr/media.yaml"

WHOLE = """
filesystem: media
catalog: /mnt/ssd0-1/catalog
pools:
  - name: smr0
    priority: 10
    scheme: {erasure: {k: 2, m: 1}}
    zone_size: 128MiB
    drives: [/mnt/smr-1, /mnt/smr-2, /mnt/smr-3]
  - name: ssd0
    priority: 0
    scheme: single
    segment_size: 32MiB
    drives:
      - /mnt/ssd0-1
      - {path: /mnt/ssd0-2, mounted: true, size: 100GiB}
"""


def config(text: str) -> Config:
    return parse(text, SOURCE)


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        config(text)
    assert caught.value.source == SOURCE
    return caught.value.problems


def one_pool(**changes: object) -> str:
    """A good configuration of one pool, with other fields in that pool; None leaves one out."""
    pool: dict[str, object] = {
        "name": "ssd0",
        "priority": 0,
        "scheme": "single",
        "drives": ["/mnt/a", "/mnt/b"],
    }
    pool.update(changes)
    kept = {key: value for key, value in pool.items() if value is not None}
    return yaml.safe_dump({"filesystem": "media", "pools": [kept]})


def two_pools(**changes: object) -> str:
    """The same with an archive pool behind it, and other fields in that one."""
    document = yaml.safe_load(one_pool())
    archive: dict[str, object] = {
        "name": "smr0",
        "priority": 10,
        "scheme": "single",
        "drives": ["/mnt/c", "/mnt/d"],
    }
    document["pools"].append({**archive, **changes})
    return yaml.safe_dump(document)


def test_a_whole_configuration_says_what_it_says() -> None:
    whole = config(WHOLE)
    assert (whole.filesystem, whole.path) == ("media", Path(SOURCE))
    assert whole.catalog == Path("/mnt/ssd0-1/catalog")
    assert whole.same_device is False
    workspace, archive = whole.pools
    assert whole.workspace is workspace
    assert (workspace.name, workspace.priority) == ("ssd0", 0)
    assert workspace.scheme == Scheme("single")
    assert workspace.segment_size_bytes == 32 * MIB
    assert workspace.drives == (
        DriveConfig(Path("/mnt/ssd0-1")),
        DriveConfig(Path("/mnt/ssd0-2"), mounted=True, size_bytes=100 * GIB),
    )
    assert (archive.name, archive.priority) == ("smr0", 10)
    assert archive.scheme == Scheme("erasure", k=2, m=1, code="isa_l_rs_cauchy")
    assert archive.zone_size_bytes == 128 * MIB
    assert [drive.path.name for drive in archive.drives] == ["smr-1", "smr-2", "smr-3"]


def test_the_catalog_is_on_the_first_drive_that_is_there(tmp_path: Path) -> None:
    drives = [str(tmp_path / name) for name in "ab"]
    text = one_pool(drives=drives, scheme={"mirror": 2})
    assert config(text).catalog == tmp_path / "a" / "catalog"
    (tmp_path / "b").mkdir()
    assert config(text).catalog == tmp_path / "b" / "catalog"
    (tmp_path / "a").mkdir()
    assert config(text).catalog == tmp_path / "a" / "catalog"
    mounted = [{"path": drives[0], "mounted": True}, drives[1]]
    text = one_pool(drives=mounted, scheme={"mirror": 2})
    assert config(text).catalog == tmp_path / "b" / "catalog"


def test_what_is_left_out_has_a_default() -> None:
    small = config(one_pool())
    assert small.catalog == Path("/mnt/a/catalog")
    assert small.workspace.segment_size_bytes is None
    assert small.workspace.zone_size_bytes == 256 * MIB
    assert small.workspace.rules is None
    assert small.status_file is None
    assert config(two_pools()).pools[1].clean_at == 0.5


def test_the_schemes() -> None:
    def scheme(value: object) -> Scheme:
        drives = [f"/mnt/archive-{index}" for index in range(6)]
        return config(two_pools(scheme=value, drives=drives)).pools[1].scheme

    assert scheme("single") == Scheme("single", k=1, m=0)
    assert scheme({"mirror": 3}) == Scheme("mirror", k=1, m=2)
    assert scheme({"mirror": 3}).copies == scheme({"mirror": 3}).width == 3
    code = "liberasurecode_rs_vand"
    coded = scheme({"erasure": {"k": 4, "m": 2, "code": code}})
    assert coded == Scheme("erasure", k=4, m=2, code=code)
    assert (coded.copies, coded.width) == (1, 6)
    assert str(coded) == "erasure 4+2 (liberasurecode_rs_vand)"


@pytest.mark.parametrize(
    ("word", "meaning"), [("true", True), ("yes", True), ("false", False), ("Off", False)]
)
def test_true_and_false_have_several_words(word: str, meaning: bool) -> None:
    assert config(f"same_device: {word}\n" + one_pool()).same_device is meaning


def test_a_name_stays_the_text_in_the_file() -> None:
    assert config(one_pool().replace("media", "no")).filesystem == "no"
    assert config(one_pool().replace("media", "010")).filesystem == "010"


def test_a_relative_path_starts_at_the_file() -> None:
    drives = config(one_pool(drives=["drive-1", "../drive-2"])).workspace.drives
    assert [drive.path for drive in drives] == [Path("/etc/shmr/drive-1"), Path("/etc/drive-2")]


def test_an_alias_repeats_a_value() -> None:
    text = """
filesystem: media
pools:
  - {name: a, priority: 0, scheme: &two {mirror: 2}, drives: [/mnt/a, /mnt/b]}
  - {name: b, priority: 1, scheme: *two, drives: [/mnt/c, /mnt/d]}
"""
    assert config(text).pools[0].scheme == config(text).pools[1].scheme == Scheme("mirror", m=1)


DAY_NS = 86_400 * NS_PER_S


def with_rules(*rules: object) -> str:
    """Two good pools, and rules for the first."""
    document = yaml.safe_load(two_pools())
    document["pools"][0]["rules"] = list(rules)
    return yaml.safe_dump(document)


def test_rules_say_what_they_say() -> None:
    found = config(
        with_rules(
            {"path": ["/projects/**", "**/*.lock"], "keep": "ssd0"},
            {"older_than": "30d", "larger_than": "1MiB", "to": "smr0"},
            {"not_read_for": "1.5w", "smaller_than": 4096, "path": "a b/*", "to": "smr0"},
            {"min_free": "20%", "to": "smr0"},
        )
    ).workspace.rules
    assert found == (
        Rule("ssd0", keep=True, paths=("projects/**", "**/*.lock")),
        Rule("smr0", older_than_ns=30 * DAY_NS, larger_than_bytes=MIB),
        Rule("smr0", not_read_for_ns=DAY_NS * 21 // 2, smaller_than_bytes=4096, paths=("a b/*",)),
        Rule("smr0", min_free=0.2),
    )


def test_no_rules_at_all_can_be_said() -> None:
    assert config(with_rules()).workspace.rules == ()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0s", 0), ("90s", 90), ("30min", 1800), ("12h", 43_200), ("2 w", 1_209_600)],
)
def test_ages_have_units(text: str, seconds: int) -> None:
    rules = config(with_rules({"older_than": text, "to": "smr0"})).workspace.rules
    assert rules == (Rule("smr0", older_than_ns=seconds * NS_PER_S),)


def test_an_archive_pool_is_cleaned_at_a_share_of_its_own() -> None:
    assert config(two_pools(clean_at="12.5%")).pools[1].clean_at == 0.125


def test_the_read_deadline_is_a_time() -> None:
    assert config(one_pool()).read_deadline_ns == 10 * NS_PER_S
    assert config("read_deadline: 1.5s\n" + one_pool()).read_deadline_ns == 3 * NS_PER_S // 2


def test_links_in_paths_are_followed_as_the_kernel_does(tmp_path: Path) -> None:
    (tmp_path / "real" / "below").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real/below")
    (tmp_path / "absolute").symlink_to(tmp_path / "link")
    (tmp_path / "loop").symlink_to("loop")
    for path in ("link/..", "absolute/x", "link/../below", "./absolute//", "gone/../real", "link"):
        text = f"status_file: {tmp_path}/{path}\n" + one_pool()
        assert config(text).status_file == Path(os.path.realpath(tmp_path / path)), path
    assert config(f"status_file: {tmp_path}/loop\n" + one_pool()).status_file is not None


def test_the_status_file_is_a_path() -> None:
    assert config("status_file: s\n" + one_pool()).status_file == Path("/etc/shmr/s")


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("smr0", ": expected a mapping with older_than, not_read_for, larger_than"),
        ({}, ": expected either to: POOL or keep: POOL, found neither"),
        ({"to": "smr0", "keep": "ssd0"}, ": expected either to: POOL or keep: POOL, found both"),
        ({"to": "smr1"}, ".to: no pool is called smr1; there are smr0, ssd0"),
        ({"to": "ssd0"}, ".to: is this very pool; write keep: ssd0"),
        ({"to": ["smr0"]}, ".to: expected a name"),
        ({"keep": "smr0"}, ".keep: this rule is for what lies in ssd0: keep: ssd0 keeps"),
        ({"keep": "smr1"}, ".keep: no pool is called smr1"),
        ({"older": "3d", "to": "smr0"}, ".older: unknown; did you mean older_than?"),
        ({"older_than": 30, "to": "smr0"}, ".older_than: expected a time such as 30min"),
        ({"older_than": "1m", "to": "smr0"}, ".older_than: expected a time"),
        ({"older_than": "-1d", "to": "smr0"}, ".older_than: expected a time"),
        ({"older_than": "9" * 9 + "w", "to": "smr0"}, ".older_than: expected a time"),
        ({"not_read_for": [], "to": "smr0"}, ".not_read_for: expected a time"),
        ({"larger_than": "big", "to": "smr0"}, ".larger_than: expected a size"),
        ({"smaller_than": None, "to": "smr0"}, ".smaller_than: expected a size"),
        ({"larger_than": 9, "smaller_than": 10, "to": "smr0"}, ": no file is larger and smaller"),
        ({"min_free": 20, "to": "smr0"}, ".min_free: expected a share above 0% and below 100%"),
        ({"min_free": "0%", "to": "smr0"}, ".min_free: expected a share"),
        ({"min_free": "100%", "to": "smr0"}, ".min_free: expected a share"),
        ({"min_free": "20%", "keep": "ssd0"}, ".min_free: has no meaning with keep"),
        ({"path": "", "to": "smr0"}, ".path: expected a pattern such as photos/**"),
        ({"path": "/", "to": "smr0"}, ".path: expected a pattern such as photos/**"),
        ({"path": [], "to": "smr0"}, ".path: expected at least one pattern"),
        ({"path": ["a", "b/"], "to": "smr0"}, ".path[1]: files match, and no directories"),
        ({"path": "a//b", "to": "smr0"}, ".path: no path has an empty part"),
        ({"path": "../b", "to": "smr0"}, ".path: no path has an empty part"),
        ({"path": "a/b**", "to": "smr0"}, ".path: ** stands alone between slashes"),
        ({"path": "a\0", "to": "smr0"}, ".path: not a pattern that a path can match"),
    ],
)
def test_a_mistake_in_a_rule_is_told_with_its_place(rule: object, expected: str) -> None:
    place = "pools[0].rules[1]"
    found = problems(with_rules({"older_than": "1d", "to": "smr0"}, rule))
    assert any(line.startswith(place + expected) for line in found), found
    assert all(line.startswith(place) for line in found), found


def test_a_rule_that_is_never_reached_is_a_mistake() -> None:
    found = problems(with_rules({"to": "smr0"}, {"older_than": "1d", "keep": "ssd0"}))
    assert found == ["pools[0].rules[0]: matches every file: the rules behind it are never reached"]


def test_every_mistake_is_told_at_once_with_its_place() -> None:
    text = """
filesystem: my media
filesistem: media
pools:
  - name: ssd0
    priority: 0
    scheme: {erasure: {k: 4, m: 2, code: isa_l_rs_vand}}
    drives: /mnt/a
  - name: ssd0
    priority: fast
    scheme: raid
    zone_size: 1000
    drives: [{path: ~/x, mounted: maybe, siez: 3}, 7, [b]]
  - 5
"""
    found = problems(text)
    places = [line.split(": ")[0] for line in found]
    assert places == [
        "filesistem",
        "pools[0].scheme.erasure.code",
        "pools[0].scheme",
        "pools[0].drives",
        "pools[1].priority",
        "pools[1].scheme",
        "pools[1].zone_size",
        "pools[1].drives[0].siez",
        "pools[1].drives[0].path",
        "pools[1].drives[0].mounted",
        "pools[1].drives[2]",
        "pools[2]",
        "pools[1].name",
        "filesystem",
    ]
    assert "did you mean filesystem?" in found[0]
    assert "did you mean size?" in found[7]
    assert "replicated while it is open" in found[2]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "expected a mapping with filesystem"),
        ("[]", "expected a mapping with filesystem"),
        ("filesystem: media", "pools: missing"),
        (one_pool(name=None), "pools[0].name: missing"),
        (one_pool(priority=None), "pools[0].priority: missing"),
        (one_pool(scheme=None), "pools[0].scheme: missing"),
        (one_pool(drives=None), "pools[0].drives: missing"),
        (one_pool(drives=[]), "pools[0].drives: expected at least one drive"),
        (one_pool(drives=[None]), "pools[0].drives[0]: expected a path or a mapping"),
        (one_pool(drives=[{}]), "pools[0].drives[0].path: missing"),
        (one_pool(drives=["/"]), "pools[0].drives[0]: a drive is a directory of its own"),
        (one_pool(drives=["/a\0"]), "pools[0].drives[0]: not a path that a system call takes"),
        (one_pool(drives=["/mnt/" + "a" * 5000]), "pools[0].drives[0]: not a path"),
        (one_pool(drives=["/mnt/a", "/mnt/./a"]), "pools[0].drives[1]: /mnt/a is also"),
        (one_pool(drives=["/mnt/a/b", "/mnt/a"]), "pools[0].drives[0]: /mnt/a/b lies inside"),
        (one_pool(drives=["/mnt/a/b/c/d", "/mnt/a"]), "pools[0].drives[0]: /mnt/a/b/c/d lies"),
        (one_pool(priority=-1), "pools[0].priority: expected a whole number"),
        (one_pool(priority=1), "pools: no pool has priority 0"),
        (one_pool(priority=10**30), "pools[0].priority: expected a whole number"),
        (one_pool(name="a b"), "pools[0].name: expected a name"),
        (one_pool(name=".a"), "pools[0].name: expected a name"),
        (one_pool(name="a" * 65), "pools[0].name: expected a name"),
        (one_pool(scheme="mirror"), "pools[0].scheme: expected single, {mirror: 2}"),
        (one_pool(scheme={"mirror": 1}), "pools[0].scheme.mirror: expected a whole number"),
        (one_pool(scheme={"mirror": 3}), "pools[0].drives: mirror of 3 needs 3 drives or more"),
        (one_pool(zone_size="1GiB"), "pools[0].zone_size: has no meaning in a pool of priority 0"),
        (one_pool(segment_size="1"), "pools[0].segment_size: expected 1.0 MiB to 4.0 GiB"),
        (one_pool(segment_size=MIB + 1), "pools[0].segment_size: expected a multiple of 4 KiB"),
        (one_pool(segment_size="9" * 400), "pools[0].segment_size: expected a size"),
        (one_pool(drives=[{"path": "/a", "size": "1KiB"}]), "pools[0].drives[0].size: expected"),
        (two_pools(segment_size="64MiB"), "pools[1].segment_size: has no meaning"),
        (
            two_pools(zone_size="64MiB", drives=[{"path": "/c", "size": "128MiB"}]),
            "pools[1].drives[0].size: expected 129.0 MiB to",
        ),
        (two_pools(priority=0), "pools[1].priority: 0 is also that of pools[0]"),
        (two_pools(name="ssd0"), "pools[1].name: ssd0 is also that of pools[0]"),
        (two_pools(drives=["/mnt/b"]), "pools[1].drives[0]: /mnt/b is also pools[0].drives[1]"),
        (two_pools(scheme={"erasure": {"k": 4}}), "pools[1].scheme.erasure.m: missing"),
        (two_pools(scheme={"erasure": {"k": 4, "m": 0}}), "pools[1].scheme.erasure.m: expected"),
        (two_pools(scheme={"erasure": {"k": 1, "m": 2}}), "pools[1].scheme.erasure.k: one part"),
        (two_pools(scheme={"erasure": {"k": 30, "m": 3}}), "pools[1].scheme.erasure: k + m is at"),
        (two_pools(scheme={"erasure": {"k": 2, "m": 1}}), "pools[1].drives: erasure 2+1"),
        ("catalog: /mnt/b\n" + one_pool(), "catalog: /mnt/b is pools[0].drives[1]"),
        ("catalog: /mnt\n" + one_pool(), "pools[0].drives[0]: /mnt/a lies inside the catalog"),
        ("catalog: /mnt/c/x\n" + two_pools(), "catalog: /mnt/c/x lies inside pools[1].drives[0]"),
        ("same_device: 2\n" + one_pool(), "same_device: expected true or false, found '2'"),
        ("catalog:\n" + one_pool(), "catalog: expected a path, found nothing"),
        (one_pool(clean_at="30%"), "pools[0].clean_at: has no meaning in a pool of priority 0"),
        (two_pools(clean_at="30"), "pools[1].clean_at: expected a share above 0%"),
        (two_pools(rules="all"), "pools[1].rules: expected a list of rules, found 'all'"),
        ("status_file:\n" + one_pool(), "status_file: expected a path, found nothing"),
        ("status_file: /mnt/a\n" + one_pool(), "status_file: /mnt/a is pools[0].drives[0]"),
        ("status_file: /mnt/c/x\n" + two_pools(), "status_file: /mnt/c/x lies inside pools[1]"),
        (
            "status_file: /mnt/a/catalog/x\n" + one_pool(),
            "status_file: /mnt/a/catalog/x lies inside the catalog",
        ),
        ("status_file: media.yaml\n" + one_pool(), "status_file: /etc/shmr/media.yaml is this"),
        ("read_deadline: 10\n" + one_pool(), "read_deadline: expected a time such as"),
        ("read_deadline: 0s\n" + one_pool(), "read_deadline: expected 0.1s to 1h, found '0s'"),
        ("read_deadline: 2h\n" + one_pool(), "read_deadline: expected 0.1s to 1h, found '2h'"),
        ("status_file: /mnt\n" + one_pool(), "status_file: /mnt is a directory"),
        ("catalog: /a\ncatalog: /b\n" + one_pool(), "catalog: given twice (lines 1 and 2)"),
        ("<<: {a: b}\n" + one_pool(), "'<<': unknown"),
        ("? [a]\n: 1\n" + one_pool(), "a key is text, found something else (line 1)"),
        ("catalog: !!python/name:os.system\n" + one_pool(), "catalog: the tag"),
        ("catalog: &a [*a]\n" + one_pool(), "catalog[0]: this value contains itself"),
    ],
)
def test_a_mistake_is_told_with_its_place(text: str, expected: str) -> None:
    found = problems(text)
    assert any(line.startswith(expected) for line in found), found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: [", "line 1, column 5: "),
        ("filesystem: media\n\tpools: []", "line 2, column 1: "),
        ("scheme: mirror: 2", "line 1, column 15: mapping values are not allowed here (a mapping"),
        ("a: *b", "line 1, column 4: found undefined alias"),
        ("a: 1\n---\nb: 2", "line 2, column 1: "),
        ("a\x01b", "not YAML: "),
        ('"\\UFFFFFFFF"', "an escape in quoted text"),
        ("[" * 5000, "nested too deeply"),
    ],
)
def test_what_is_no_yaml_is_told_with_line_and_column(text: str, expected: str) -> None:
    (line,) = problems(text)
    assert line.startswith(expected)


def test_aliases_of_aliases_cost_nothing() -> None:
    lines = ["a0: &a0 [x]"]
    for level in range(1, 40):
        lines.append(f"a{level}: &a{level} [" + ", ".join([f"*a{level - 1}"] * 9) + "]")
    assert len(problems("\n".join(lines))) == 42  # each key is unknown, two are missing


def test_a_message_stays_short_whatever_was_found() -> None:
    for line in problems(one_pool(name="x" * 100_000, scheme=["y"] * 10_000)):
        assert len(line) < 300


def test_a_file_is_read_as_it_stands(tmp_path: Path) -> None:
    file = tmp_path / "media.yaml"
    file.write_text("\ufeff" + one_pool(drives=["drive-1", "link"]), encoding="utf-8")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to("elsewhere")
    found = load(file)
    assert found.path == file
    assert [drive.path for drive in found.workspace.drives] == [
        Path(os.path.realpath(tmp_path)) / "drive-1",
        Path(os.path.realpath(tmp_path)) / "elsewhere",
    ]


def test_two_names_of_one_directory_are_one_drive(tmp_path: Path) -> None:
    (tmp_path / "drive").mkdir()
    (tmp_path / "link").symlink_to("drive")
    file = tmp_path / "media.yaml"
    file.write_text(one_pool(drives=["drive", "link"]))
    with pytest.raises(ConfigError, match="is also pools"):
        load(file)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "cannot be read: No such file"),
        (b"a: \xff", "line 1: not UTF-8"),
        (b"#" * (MIB + 1), "longer than 1.0 MiB"),
    ],
)
def test_an_unreadable_file_is_a_problem_too(
    tmp_path: Path, content: bytes | None, expected: str
) -> None:
    file = tmp_path / "media.yaml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SetupError, match=expected):
        load(file)


keys = st.sampled_from(
    "filesystem catalog pools same_device status_file name priority scheme drives path mounted "
    "size zone_size segment_size mirror erasure k m code rules clean_at to keep older_than "
    "not_read_for larger_than smaller_than min_free".split()
) | st.text(max_size=4)
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=12)
    | st.dates()
    | st.binary(max_size=3)
    | st.sampled_from(["single", "/a", "a", "64MiB", "isa_l_rs_cauchy", "30d", "20%", "a/**"])
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=20,
)


def only_a_config_error(text: str) -> None:
    try:
        config(text)
    except ConfigError as error:
        assert error.problems


@given(values)
def test_any_values_are_a_configuration_or_a_config_error(value: object) -> None:
    only_a_config_error(yaml.safe_dump(value))


@given(st.dictionaries(keys, values, max_size=4), keys, values)
def test_any_values_inside_a_good_one_are_a_config_error_at_most(
    pool: dict[str, object], key: str, value: object
) -> None:
    document = yaml.safe_load(one_pool())
    document["pools"][0].update(pool)
    document[key] = value
    only_a_config_error(yaml.safe_dump(document))


@given(st.text(alphabet="ab01:-?[]{},&*!|>'\"%@#~\\x u\n\t", max_size=40) | st.text())
@example("!!bool x")
@example("!!int ''")
@example("!!timestamp x")
@example("!!float x")
@example("0x" + "f" * 5000)
@example("%YAML 9.9\n--- a")
def test_any_text_is_a_configuration_or_a_config_error(text: str) -> None:
    only_a_config_error(text)
