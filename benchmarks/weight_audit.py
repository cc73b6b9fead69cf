"""How long the comparison of stored tensors takes, beside hashing the same files (docs/gates.md).

    python -m benchmarks.weight_audit RELEASE

Prints a row for each artifact: the least of three turns. Hashing takes one core, comparing all. int8 is quantized again
from a float32 artifact beside it, so that artifact's tensors are hashed too.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from yizhi.parity.golden import Golden
from yizhi.parity.weights import audit
from yizhi.release.artifact import Artifact
from yizhi.release.manifest import GOLDEN, read_manifest
from yizhi.storage.digests import describe_folder

_TURNS = 3


def least(action: Callable[[], object]) -> float:
    """Seconds."""
    seconds = []
    for _ in range(_TURNS):
        begin = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("release", type=Path, metavar="RELEASE")
    release = parser.parse_args(arguments).release
    golden = Golden.read(release / GOLDEN)
    print("| artifact | hashing, s | comparing, s | ratio |\n|---|---|---|---|")
    for name in read_manifest(release)["artifacts"]:
        artifact = Artifact.read(release / name)
        hashing = least(partial(describe_folder, artifact.folder))
        compare = partial(audit, artifact, golden.weights, golden.numbers, workers=os.cpu_count() or 1)
        comparing = least(compare)
        print(f"| {name} | {hashing:.2f} | {comparing:.2f} | {comparing / hashing:.2f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
