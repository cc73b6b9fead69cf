"""The manifest: what is written can be read again."""

import pytest

from yizhi.release.manifest import MANIFEST, SCHEMA_VERSION, write_manifest


def test_a_manifest_that_could_not_be_read_is_not_written(tmp_path):
    """A target once gave its integer sums under a name that the schema did not know."""
    with pytest.raises(ValueError, match="artifacts"):
        write_manifest(tmp_path, {"schema_version": SCHEMA_VERSION, "source": {}, "golden": {}, "documents": {}})
    assert not (tmp_path / MANIFEST).exists()
