"""`yizhi revoke` and `yizhi verify --revoked`: a list is taken from its signer alone, and as it was written."""

import base64
import hashlib
import json
import os

import pytest

from yizhi.cli import main
from yizhi.storage.small_files import MOST_BYTES

pytest.importorskip("model_signing", reason="pip install 'yizhi[release]'")

pytestmark = pytest.mark.slow

OTHER = "0" * 64


@pytest.fixture
def listed(tmp_path, keys):
    """A list that has another release in it, signed by `keys`."""
    path = tmp_path / "withdrawn.sigstore.json"
    assert revoke(OTHER, path, keys[0]) == 0
    return path


def revoke(release, path, key, reason="labels swapped"):
    return main(["revoke", str(release), "--list", str(path), "--reason", reason, "--key", str(key)])


def verify(release, key, path):
    arguments = ["verify", str(release), "--target", "onnx", "--public-key", str(key), "--revoked", str(path)]
    return main(arguments)


def statement_of(path):
    return json.loads(base64.b64decode(json.loads(path.read_text())["dsseEnvelope"]["payload"]))


def sign_statement(path, statement, key):
    from yizhi.release.key_signer import KeySigner

    content = (
        statement if isinstance(statement, bytes) else (json.dumps(statement, indent=2, sort_keys=True) + "\n").encode()
    )
    path.write_text(KeySigner(key).sign(content))


def test_a_withdrawn_release_is_refused_and_another_is_not(signed, keys, listed, capsys):
    assert verify(signed, keys[1], listed) == 0
    assert revoke(signed, listed, keys[0], "标签 3 和 4 对调") == 0
    assert "2 withdrawn, signed by key" in capsys.readouterr().out
    assert verify(signed, keys[1], listed) == 1
    assert "标签 3 和 4 对调" in capsys.readouterr().err
    digest = hashlib.sha256((signed / "manifest.json").read_bytes()).hexdigest()
    said = statement_of(listed)
    assert [one["digest"]["sha256"] for one in said["subject"]] == sorted([OTHER, digest])
    assert set(said["predicate"]["withdrawn"]) == {OTHER, digest}


def test_a_release_is_withdrawn_once(signed, keys, listed, capsys):
    before = listed.read_bytes()
    assert revoke(OTHER, listed, keys[0]) == 2
    assert "has 0000" in capsys.readouterr().err
    assert listed.read_bytes() == before


@pytest.mark.parametrize("reason", ["", "  ", "two\nlines", "\x1b[2J"])
def test_a_reason_is_a_line(keys, listed, reason, capsys):
    before = listed.read_bytes()
    assert revoke("1" * 64, listed, keys[0], reason) == 2
    assert "--reason" in capsys.readouterr().err
    assert listed.read_bytes() == before


def test_what_is_withdrawn_must_be_a_release(tmp_path, keys, listed):
    assert revoke(tmp_path, listed, keys[0]) == 2
    assert revoke("A" * 64, listed, keys[0]) == 2


def test_nobody_adds_to_anothers_list(keys, other_keys, listed, capsys):
    before = listed.read_bytes()
    assert revoke("1" * 64, listed, other_keys[0]) == 2
    assert "is not signed by key" in capsys.readouterr().err
    assert listed.read_bytes() == before


def test_a_list_by_another_key_is_refused_and_not_ignored(signed, keys, other_keys, tmp_path, capsys):
    path = tmp_path / "theirs.json"
    assert revoke(OTHER, path, other_keys[0]) == 0
    assert verify(signed, keys[1], path) == 2
    assert "theirs.json" in capsys.readouterr().err


def test_a_list_needs_somebody_who_signed_it(signed, listed, capsys):
    assert main(["verify", str(signed), "--revoked", str(listed)]) == 2
    assert "--revoked: needs --public-key" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"null", b"[]", b"{}", b"NaN", b"\xff", b"\0", b'{"dsseEnvelope": {"payload": "?"}}', b"[" * 100_000),
        *(b" " * (MOST_BYTES + 1), None, "pipe", "folder", "half", "other payload", "attestation"),
    ],
)
def test_a_hostile_list_is_refused(signed, keys, listed, content, capsys):
    whole = listed.read_bytes()
    listed.unlink()
    if content == "pipe":
        os.mkfifo(listed)
    elif content == "folder":
        listed.mkdir()
    elif content == "half":
        listed.write_bytes(whole[: len(whole) // 2])
    elif content == "other payload":
        bundle = json.loads(whole)
        bundle["dsseEnvelope"]["payload"] = base64.b64encode(b"{}").decode()
        listed.write_text(json.dumps(bundle))
    elif content == "attestation":  # signed by the right key, for another purpose
        listed.write_text((signed / "attestations.sigstore.jsonl").read_text().splitlines()[2])
    elif content is not None:
        listed.write_bytes(content)
    assert verify(signed, keys[1], listed) == 2
    assert listed.name in capsys.readouterr().err


def empty(said):
    said["predicate"]["withdrawn"] = {}


def other_subject(said):
    said["subject"][0]["digest"]["sha256"] = "1" * 64


def no_reason(said):
    del said["predicate"]["withdrawn"][OTHER]["reason"]


def bad_day(said):
    said["predicate"]["withdrawn"][OTHER]["since"] = "yesterday"


def bad_time(said):
    said["predicate"]["signed_at"] = "2026-13-99T99:99:99Z"


def bad_digest(said):
    said["predicate"]["withdrawn"]["short"] = said["predicate"]["withdrawn"].pop(OTHER)


def more(said):
    said["predicate"]["more"] = 1


def other_kind(said):
    said["predicateType"] = "urn:yizhi:withdrawn:2"


@pytest.mark.parametrize("change", [empty, other_subject, no_reason, bad_day, bad_time, bad_digest, more, other_kind])
def test_a_list_by_the_right_key_in_another_form_is_refused(signed, keys, listed, change, capsys):
    said = statement_of(listed)
    change(said)
    sign_statement(listed, said, keys[0])
    assert verify(signed, keys[1], listed) == 2
    assert listed.name in capsys.readouterr().err


def test_a_name_twice_is_refused_though_signed(signed, keys, listed):
    """Readers differ in which of two they take."""
    text = json.dumps(statement_of(listed), indent=2, sort_keys=True).replace(
        '"predicate"', '"predicate": {}, "predicate"', 1
    )
    sign_statement(listed, text.encode(), keys[0])
    assert verify(signed, keys[1], listed) == 2


@pytest.mark.parametrize("content", [b"3", b"null", b"[]", b'"x"', b"\xff", b"[" * 100_000])
def test_a_statement_that_is_none_is_refused_though_signed(signed, keys, listed, content):
    sign_statement(listed, content, keys[0])
    assert verify(signed, keys[1], listed) == 2
