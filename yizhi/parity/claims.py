"""Checks `config.json`, `artifact.json` and the list of files against the checkpoint.

Runtimes open an artifact by these files. So the check runs first.
"""

from dataclasses import replace
from fnmatch import fnmatchcase

from yizhi.converters.sentence_transformers import FILES as SENTENCE_FILES
from yizhi.converters.shared_files import CONFIG, OPTIONAL, describe_interface
from yizhi.converters.targets import TARGETS
from yizhi.errors import InputError, show
from yizhi.model.architectures import build_spec
from yizhi.model.config import EncoderConfig
from yizhi.parity.golden import Golden
from yizhi.reading.auto_tokenizer import read_tokenizer
from yizhi.release.artifact import DESCRIPTION, Artifact
from yizhi.storage.digests import sha256_of_file


def find_false_claims(artifact: Artifact, golden: Golden) -> list[str]:
    """A line for each claim that contradicts the golden folder or this version."""
    patterns = (*golden.text.files, *SENTENCE_FILES, *TARGETS[artifact.target].files)
    faults = [
        f"{show(name)}: is no file of {artifact.target}"
        for name in artifact.description["files"]
        if not any(fnmatchcase(name, pattern) for pattern in patterns)
    ]
    config = artifact.folder / CONFIG
    if CONFIG not in golden.text.files:
        return [*faults, f"golden: files: {CONFIG} is missing"]
    if not config.is_file() or sha256_of_file(config) != golden.text.files[CONFIG]:
        return [*faults, f"{CONFIG}: differs from the checkpoint's"]
    try:
        spec = replace(build_spec(EncoderConfig.read(config), golden.weights), pooling=golden.text.pooling)
        vocabulary = read_tokenizer(artifact.folder).vocab
        interface = describe_interface(spec, len(vocabulary), TARGETS[artifact.target].steps)
    except InputError as error:  # a golden folder that does not fit, or tokenizer files that cannot be read
        return [*faults, *(f"{error.subject}: {fault}" for fault in error.faults)]
    expected = {"precision": TARGETS[artifact.target].precision, **dict.fromkeys(OPTIONAL), **interface}
    found = {name: artifact.description.get(name) for name in expected}
    return faults + [
        f"{DESCRIPTION}: {name}: expected {show(expected[name])}; found {show(found[name])}"
        for name in expected
        if found[name] != expected[name]
    ]
