"""The signed statements about a release: read by tools that are not ours, and forged in every way we know."""

import base64
import json
import subprocess
from contextlib import suppress

import pytest

from yizhi.cli import main
from yizhi.storage.json_files import to_json
from yizhi.storage.small_files import MOST_BYTES

pytest.importorskip("model_signing", reason="pip install 'yizhi[release]'")

pytestmark = pytest.mark.slow

NAME = "attestations.sigstore.jsonl"


def read_lines(release):
    return [json.loads(line) for line in (release / NAME).read_text().splitlines()]


def payload_of(bundle):
    return base64.b64decode(bundle["dsseEnvelope"]["payload"])


def sign_files_again(release, key):
    """As a signer would whose attestations say something else: model.sig is right."""
    from yizhi.release.key_signer import KeySigner

    (release / "model.sig").unlink()
    KeySigner(key).sign_files(release, release / "model.sig", release.parent / "model.sig")
    (release.parent / "model.sig").rename(release / "model.sig")


def verify(release, key):
    return main(["verify", str(release), "--target", "onnx", "--public-key", str(key)])


def test_what_they_say(signed):
    provenance, materials, whole = (json.loads(payload_of(bundle)) for bundle in read_lines(signed))
    assert payload_of(read_lines(signed)[0]) == (signed / "provenance.json").read_bytes()
    assert provenance["predicateType"] == "https://slsa.dev/provenance/v1"
    assert materials["predicateType"] == "https://cyclonedx.org/bom"
    assert materials["predicate"] == json.loads((signed / "bom.cdx.json").read_text())
    assert materials["subject"] == provenance["subject"]
    assert {"onnx/model.onnx.data", "onnx-int8/model.onnx"} <= {one["name"] for one in materials["subject"]}
    assert [one["name"] for one in whole["subject"]] == ["manifest.json", "provenance.json", "bom.cdx.json"]
    assert list(whole["predicate"]) == ["signed_at"]


def test_openssl_alone_checks_each_line(signed, keys, tmp_path):
    for bundle in read_lines(signed):
        envelope = bundle["dsseEnvelope"]
        kind, payload = envelope["payloadType"].encode(), payload_of(bundle)
        (tmp_path / "signed").write_bytes(b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload))
        (tmp_path / "signature").write_bytes(base64.b64decode(envelope["signatures"][0]["sig"]))
        command = ["openssl", "dgst", "-sha256", "-verify", keys[1], "-signature", tmp_path / "signature"]
        done = subprocess.run([*command, tmp_path / "signed"], capture_output=True, text=True, check=False)
        assert done.stdout == "Verified OK\n", done.stderr


def test_they_are_bundles_and_statements_to_the_libraries_of_sigstore_and_in_toto(signed):
    from sigstore.dsse import Statement
    from sigstore_models.bundle.v1 import Bundle

    for line in (signed / NAME).read_text().splitlines():
        bundle = Bundle.from_json(line)
        assert bundle.media_type == "application/vnd.dev.sigstore.bundle.v0.3+json"
        Statement(bundle.dsse_envelope.payload)


def test_two_signatures_say_the_same_but_for_the_time(signed, keys):
    before = [payload_of(bundle) for bundle in read_lines(signed)]
    assert main(["sign", str(signed), "--key", str(keys[0])]) == 0
    after = [payload_of(bundle) for bundle in read_lines(signed)]
    assert before[:2] == after[:2]


def swap(lines):
    lines.reverse()


def repeat(lines):
    lines.append(lines[-1])


def shorten(lines):
    lines.pop()


def drop_first(lines):
    lines.pop(0)


def empty(lines):
    lines.clear()


def blank(lines):
    lines.insert(1, "")


def no_json(lines):
    lines[1] = lines[1][:-1]


def deep(lines):
    lines[1] = "[" * 100_000


def no_base64(lines):
    edit(lines, lambda bundle: bundle["dsseEnvelope"].update(payload="?"))


def no_signature(lines):
    edit(lines, lambda bundle: bundle["dsseEnvelope"].update(signatures=[]))


def two_signatures_by_one(lines):
    edit(lines, lambda bundle: bundle["dsseEnvelope"]["signatures"].append(bundle["dsseEnvelope"]["signatures"][0]))


def other_payload(lines):
    said = base64.b64encode(b"{}").decode()
    edit(lines, lambda bundle: bundle["dsseEnvelope"].update(payload=said))


def other_type(lines):
    edit(lines, lambda bundle: bundle["dsseEnvelope"].update(payloadType="text/plain"))


def null_envelope(lines):
    edit(lines, lambda bundle: bundle.update(dsseEnvelope=None))


def number_for_a_signature(lines):
    edit(lines, lambda bundle: bundle["dsseEnvelope"].update(signatures=[{"sig": 1, "keyid": 2}]))


def edit(lines, change):
    bundle = json.loads(lines[1])
    change(bundle)
    lines[1] = json.dumps(bundle)


FORGERIES = (swap, repeat, shorten, drop_first, empty, blank, no_json, deep, no_base64, no_signature)
FORGERIES += (two_signatures_by_one, other_payload, other_type, null_envelope, number_for_a_signature)


@pytest.mark.parametrize("forge", FORGERIES)
def test_a_forged_file_is_refused_also_where_model_sig_covers_it(signed, keys, forge, capsys):
    lines = (signed / NAME).read_text().splitlines()
    forge(lines)
    (signed / NAME).write_text("".join(f"{line}\n" for line in lines))
    sign_files_again(signed, keys[0])
    assert verify(signed, keys[1]) == 1
    assert NAME in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"\xff\xfe", b" " * (MOST_BYTES + 1), b"\0", None])
def test_a_hostile_file_is_refused_also_where_model_sig_covers_it(signed, keys, content, capsys):
    (signed / NAME).unlink()
    if content is not None:
        (signed / NAME).write_bytes(content)
    sign_files_again(signed, keys[0])
    assert verify(signed, keys[1]) == 1
    assert NAME in capsys.readouterr().err


@pytest.mark.parametrize(
    "signed_at", [None, 3, "yesterday", "2026-11-29", "2026-11-29T00:00:00+01:00", "2026-1-9T00:00:00Z", "NaN", ["x"]]
)
def test_a_time_that_is_none(signed, keys, signed_at):
    """Signed by the right key, and saying nonsense."""
    from yizhi.release.key_signer import KeySigner

    lines = (signed / NAME).read_text().splitlines()
    statement = json.loads(payload_of(json.loads(lines[2])))
    statement["predicate"]["signed_at"] = signed_at
    lines[2] = KeySigner(keys[0]).sign(to_json(statement).encode())
    (signed / NAME).write_text("".join(f"{line}\n" for line in lines))
    sign_files_again(signed, keys[0])
    assert verify(signed, keys[1]) == 1


def test_a_statement_that_was_signed_as_something_else(signed, keys, monkeypatch):
    """By the right key, as another type of content: who signed it so may not have meant a statement."""
    from yizhi.release import key_signer

    lines = (signed / NAME).read_text().splitlines()
    with monkeypatch.context() as patched:
        patched.setattr(key_signer, "PAYLOAD_TYPE", "text/plain")
        lines[0] = key_signer.KeySigner(keys[0]).sign((signed / "provenance.json").read_bytes())
    (signed / NAME).write_text("".join(f"{line}\n" for line in lines))
    sign_files_again(signed, keys[0])
    assert verify(signed, keys[1]) == 1


def test_lines_by_another_key_are_refused_though_model_sig_is_right(signed, keys, other_keys, capsys):
    from yizhi.release.key_signer import KeySigner

    signer = KeySigner(other_keys[0])
    lines = [signer.sign(payload_of(bundle)) for bundle in read_lines(signed)]
    (signed / NAME).write_text("".join(f"{line}\n" for line in lines))
    sign_files_again(signed, keys[0])
    assert verify(signed, keys[1]) == 1
    assert "is not signed by key" in capsys.readouterr().err


def test_lines_of_another_release_are_refused_though_both_are_right(signed, keys, capsys):
    """The statements of an older release by the same key, in a newer one that the key signed too."""
    old = (signed / NAME).read_text()
    checkpoint = str(signed.parent / "checkpoint")
    from tests.checkpoints import write_variant

    write_variant(signed.parent / "checkpoint", "bert", seed=7)
    release = signed.parent / "newer"
    assert main(["export", checkpoint, "--out", str(release), "--target", "onnx"]) == 0
    assert main(["sign", str(release), "--key", str(keys[0])]) == 0
    (release / NAME).write_text(old)
    sign_files_again(release, keys[0])
    assert verify(release, keys[1]) == 1
    assert "expected the statements that `sign` writes for this release" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content",
    [
        *("", "null", "[]", "3", "NaN", "{", "{}", '{"verificationMaterial": []}', '{"verificationMaterial": {}}'),
        *('{"verificationMaterial": {"publicKey": null}, "dsseEnvelope": {}}', "[" * 100_000, "\0", '{"a": 1, "a": 2}'),
    ],
)
def test_a_hostile_model_sig_is_refused(signed, keys, content, capsys):
    (signed / "model.sig").write_text(content)
    assert verify(signed, keys[1]) == 1
    assert "model.sig" in capsys.readouterr().err


def find_places(value, path=()):
    """The path of every value inside this one."""
    if path:
        yield path
    held = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in held:
        yield from find_places(item, (*path, key))


def test_every_part_of_model_sig_may_be_anything(signed, keys):
    """Each value of the bundle in turn is of another type: refused, and never by a traceback."""
    from yizhi.errors import CheckFailed
    from yizhi.release.key_signer import KeyChecker
    from yizhi.release.signing import check_signature

    whole = json.loads((signed / "model.sig").read_text())
    accepted = set()
    for *parents, last in find_places(whole):
        for other in (None, 3, "x", [], {}, True):
            damaged = json.loads(json.dumps(whole))
            place = damaged
            for name in parents:
                place = place[name]
            place[last] = other
            (signed / "model.sig").write_text(json.dumps(damaged))
            with suppress(CheckFailed):
                check_signature(signed, KeyChecker(keys[1]))
                accepted.add(last)
    # What is not signed, and says nothing to who has the key.
    assert accepted <= {"publicKey", "hint", "tlogEntries", "keyid"}


def test_a_signature_that_names_no_key_leaves_json_alone(signed, keys, capsys):
    bundle = json.loads((signed / "model.sig").read_text())
    bundle["verificationMaterial"]["publicKey"] = {}
    (signed / "model.sig").write_text(json.dumps(bundle))
    assert main(["verify", str(signed), "--target", "onnx", "--public-key", str(keys[1]), "--json"]) == 0
    told = capsys.readouterr()
    assert "WARNING" in told.err
    json.loads(told.out)
