"""Golden outputs are read as they were written, and what is written has the form of its schema."""

import numpy as np

from yizhi.parity.golden import Golden
from yizhi.reading.checkpoint import Checkpoint


def test_they_are_read_as_they_were_written(make_checkpoint, tmp_path):
    with Checkpoint.open(make_checkpoint()) as checkpoint:
        golden = Golden.make(checkpoint)
    golden.write(tmp_path)
    read = Golden.read(tmp_path)
    assert (read.per, read.sums) == (golden.per, golden.sums)
    for case, again in zip(golden.cases, read.cases, strict=True):
        assert (again.name, again.alone, again.signatures) == (case.name, case.alone, case.signatures)
        for name, array in golden.reference[case.name].items():
            np.testing.assert_array_equal(read.reference[case.name][name], array)
