"""Policies as people and attackers write them: every fault at once, or none."""

import os
from pathlib import Path

import pytest

from yizhi.errors import InputError
from yizhi.release.policy import AcceptedSigner, Policy, read_policy
from yizhi.storage.small_files import MOST_BYTES

WHOLE = """
schema_version = 1
licenses = ["Apache-2.0"]
targets = ["onnx"]
gates = ["weights"]
max_age_days = 90
revoked = "withdrawn.sigstore.json"
int8 = { min_top1 = 0.98, max_kl_mean = 1 }

[[signers]]
public_key = "release.pub"

[[signers]]
identity = "release@example.org"
identity_provider = "https://accounts.example.org"
trust_config = "trust.json"
"""


def read(tmp_path, content):
    path = tmp_path / "policy.toml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_policy(path)


def test_a_whole_policy(tmp_path):
    assert read(tmp_path, WHOLE) == Policy(
        tmp_path / "policy.toml",
        (
            AcceptedSigner(tmp_path / "release.pub"),
            AcceptedSigner(None, "release@example.org", "https://accounts.example.org", tmp_path / "trust.json"),
        ),
        ("apache-2.0",),
        ("onnx",),
        ("weights",),
        90,
        {"min_top1": 0.98, "max_kl_mean": 1},
        tmp_path / "withdrawn.sigstore.json",
    )


def test_every_fault_is_told(tmp_path):
    text = WHOLE.replace("licenses", "licences").replace("= 90", "= 0").replace('"weights"', '"wieghts"')
    with pytest.raises(InputError) as refused:
        read(tmp_path, text.replace("schema_version = 1", "schema_version = 2"))
    told = "\n".join(refused.value.faults)
    assert len(refused.value.faults) == 4
    for name in ("licences", "max_age_days", "gates[0]", "schema_version"):
        assert name in told


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "schema_version: missing"),
        ("schema_version = 1", "signers: missing"),
        ("schema_version = 1\nsigners = []", "signers: expected at least one"),
        ("schema_version = true\nsigners = []", "schema_version: expected 1"),
        ("schema_version = 1\nsigners = [{}]", "signers[0]: expected public_key, or"),
        ('schema_version = 1\nsigners = [{identity = "x"}]', "signers[0]: expected public_key, or"),
        ('schema_version = 1\nsigners = [{public_key = "x", identity = "y", identity_provider = "z"}]', "signers[0]"),
        ('schema_version = 1\nsigners = [{public_key = "x", trust_config = "y"}]', "signers[0]"),
        ("schema_version = 1\nsigners = 3", "signers: expected array"),
        ("schema_version = 1\nsigners = [3]", "signers[0]: expected object"),
        ("schema_version = 1\nsigners = [{public_key = 3}]", "signers[0]: public_key: expected string"),
        ('schema_version = 1\nsigners = [{public_key = "a\\u0000b"}]', "signers[0]: expected names without a null"),
        ("schema_version = 1\nschema_version = 1", "is not TOML"),
        (WHOLE.replace("https://accounts.example.org", ""), "signers[1]: identity_provider: expected the form"),
        (WHOLE.replace("release@example.org", " "), "signers[1]: identity: expected the form"),
        (WHOLE.replace("release.pub", ""), "signers[0]: public_key: expected the form"),
        (WHOLE.replace("0.98", "nan"), "int8: min_top1: expected a number"),
        (WHOLE.replace("0.98", "inf"), "int8: min_top1: expected a number"),
        (WHOLE.replace("0.98", '"0.98"'), "int8: min_top1: expected number"),
        (WHOLE.replace("0.98", "-1"), "int8: min_top1: expected at least 0"),
        (WHOLE.replace("90", "90.5"), "max_age_days: expected integer"),
        (WHOLE.replace("90", "9999999999999"), "max_age_days: expected at most"),
        (WHOLE.replace("90", "2026-11-29"), "max_age_days: expected integer"),
        (WHOLE.replace('["Apache-2.0"]', "[]"), "licenses: expected at least one"),
        (WHOLE.replace("min_top1", "min_top2"), "int8: 'min_top2': not known here"),
        (WHOLE[: len(WHOLE) // 2], "is not TOML"),
        ("a = " + "[" * 100_000, "is not TOML"),
        ("\0", "is not TOML"),
        (b"\xff\xfe", "is not UTF-8"),
        (b"#" * (MOST_BYTES + 1), "expected at most"),
    ],
)
def test_a_hostile_policy_is_refused(tmp_path, content, told):
    with pytest.raises(InputError) as refused:
        read(tmp_path, content)
    assert any(told in fault for fault in refused.value.faults), refused.value.faults


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "none", Path("/dev/zero")):
        with pytest.raises(InputError):
            read_policy(path)
