"""A mount never makes the directory of a drive that is missing, whatever is to lie on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from shmr import service
from shmr.errors import SetupError

CONFIG = """\
filesystem: tests
catalog: {catalog}
same_device: true
pools:
  - name: work
    priority: 0
    scheme: {{mirror: 2}}
    drives: [one, two]
"""


@pytest.mark.parametrize("catalog", ["one/catalog", "one/deep/er/catalog"])
@pytest.mark.parametrize("degraded", [False, True])
def test_a_catalog_on_a_missing_drive_is_no_reason_to_make_one(
    tmp_path: Path, catalog: str, degraded: bool
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG.format(catalog=catalog))
    (tmp_path / "two").mkdir()
    (tmp_path / "mount").mkdir()
    with pytest.raises(SetupError, match="one: No such file or directory, and the catalog is on"):
        service.mount(config, tmp_path / "mount", degraded=degraded)
    assert not (tmp_path / "one").exists()
