"""`yizhi sign` and `yizhi verify --public-key`, offline, with keys made on the spot."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.release.conftest import make_keys
from yizhi.cli import main

pytest.importorskip("model_signing", reason="pip install 'yizhi[release]'")

pytestmark = pytest.mark.slow

FILES = ("model.sig", "attestations.sigstore.jsonl")


def verify(release, key):
    return main(["verify", str(release), "--target", "onnx", "--public-key", str(key)])


def test_signed_release_passes(signed, keys, capsys):
    assert verify(signed, keys[1]) == 0
    assert "files agree with the manifest; signed by key " in capsys.readouterr().out
    assert main(["verify", str(signed), "--target", "onnx"]) == 0
    assert "its signature was not checked" in capsys.readouterr().out


def test_nobody_vouches_for_an_unsigned_release(finished_release, capsys):
    assert main(["verify", str(finished_release), "--target", "onnx"]) == 0
    assert "the manifest is not signed" in capsys.readouterr().out
    assert main(["verify", str(finished_release / "onnx")]) == 0
    assert "manifest" not in capsys.readouterr().out


def test_model_signing_agrees(signed, keys):
    signature = ["--signature", str(signed / "model.sig"), "--ignore-paths", str(signed / "model.sig")]
    command = [sys.executable, "-m", "model_signing", "verify", "key", *signature, "--public_key", str(keys[1])]
    done = subprocess.run([*command, str(signed)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("victim", ["onnx/model.onnx.data", "manifest.json", "report/parity.json", *FILES])
def test_any_change_breaks_the_signature(signed, keys, victim, capsys):
    damaged = bytearray((signed / victim).read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (signed / victim).write_bytes(damaged)
    assert verify(signed, keys[1]) == 1
    assert Path(victim).name in capsys.readouterr().err


@pytest.mark.parametrize("victim", ["onnx/vocab.txt", "report/parity.xml", *FILES])
def test_a_missing_file_breaks_the_signature(signed, keys, victim, capsys):
    (signed / victim).unlink()
    assert verify(signed, keys[1]) == 1
    assert Path(victim).name in capsys.readouterr().err


def test_an_extra_file_breaks_the_signature(signed, keys):
    (signed / "report" / "more.txt").write_text("more")
    assert verify(signed, keys[1]) == 1


def test_another_key(signed, keys, other_keys, capsys):
    assert verify(signed, other_keys[1]) == 1
    assert "model.sig" in capsys.readouterr().err


def test_bad_keys_and_unfinished_releases(signed, keys, tmp_path, capsys):
    private, public = keys
    assert main(["sign", str(signed), "--key", str(public)]) == 2
    assert verify(signed, private) == 2
    assert main(["sign", str(tmp_path), "--key", str(private)]) == 2
    assert "not a finished release" in capsys.readouterr().err
    assert verify(signed, public) == 0


def test_changing_the_release_takes_the_signature_away(signed, finished_release):
    checkpoint = str(finished_release.parent / "checkpoint")
    assert main(["export", checkpoint, "--out", str(signed), "--target", "onnx"]) == 0
    assert all((signed / name).exists() for name in FILES)
    assert main(["export", checkpoint, "--out", str(signed), "--target", "pytorch"]) == 0
    assert not any((signed / name).exists() for name in FILES)


def test_what_is_not_as_its_manifest_says_is_not_signed(signed, keys, capsys):
    (signed / "onnx" / "vocab.txt").write_text("other")
    (signed / "onnx" / "more.txt").write_text("more")
    before = {name: (signed / name).read_bytes() for name in FILES}
    assert main(["sign", str(signed), "--key", str(keys[0])]) == 1
    told = capsys.readouterr().err
    assert "onnx/vocab.txt: expected" in told
    assert "onnx/more.txt: not listed" in told
    assert {name: (signed / name).read_bytes() for name in FILES} == before


@pytest.mark.parametrize("place", ["onnx/strange", "report/strange", "golden/strange", "strange"])
@pytest.mark.parametrize("kind", ["link", "broken link", "folder link", "pipe"])
def test_links_and_pipes_are_neither_signed_nor_accepted(signed, keys, place, kind, tmp_path):
    path = signed / place
    if kind == "pipe":
        os.mkfifo(path)
    else:
        target = {"link": signed / "manifest.json", "broken link": tmp_path / "none", "folder link": tmp_path}[kind]
        path.symlink_to(target)
    assert main(["sign", str(signed), "--key", str(keys[0])]) == 1
    assert verify(signed, keys[1]) == 1


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_signatures_that_are_no_files(signed, keys, name, kind, tmp_path):
    path = signed / name
    moved = path.rename(tmp_path / name)
    {"link": lambda: path.symlink_to(moved), "pipe": lambda: os.mkfifo(path), "folder": path.mkdir}[kind]()
    assert verify(signed, keys[1]) == 1


@pytest.mark.parametrize("option", ["--public-key", "--policy", "--identity"])
def test_an_empty_value_is_not_left_out(signed, option, capsys):
    """As in a script whose variable is not set: nothing may pass for want of a question."""
    try:
        code = main(["verify", str(signed), option, ""])
    except SystemExit as ended:  # where argparse refuses it
        code = ended.code
    assert code == 2


# For each line of input, a process that signs without end, and is killed after so many seconds.
_SIGNS = """
import os, signal, sys, time
from pathlib import Path
from yizhi.release.key_signer import KeySigner
from yizhi.release.signing import sign
release, signer = Path(sys.argv[1]), KeySigner(Path(sys.argv[2]))
for line in sys.stdin:
    child = os.fork()
    while child == 0:
        sign(release, signer)
    time.sleep(float(line))
    os.kill(child, signal.SIGKILL)
    print(os.WTERMSIG(os.waitpid(child, 0)[1]), flush=True)
"""


def test_a_kill_leaves_a_whole_signature_or_none(signed, keys):
    from yizhi.release.key_signer import KeyChecker
    from yizhi.release.manifest import find_altered_release, read_manifest
    from yizhi.release.signing import check_signature

    chance, checker = random.Random("kill"), KeyChecker(keys[1])
    command, pipe = [sys.executable, "-c", _SIGNS, str(signed), str(keys[0])], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, bufsize=1) as process:
        for _ in range(20):
            process.stdin.write(f"{chance.uniform(0, 0.2)}\n")
            assert int(process.stdout.readline()) == signal.SIGKILL
            if (signed / "model.sig").exists():
                check_signature(signed, checker)
            assert find_altered_release(signed, read_manifest(signed)) == {}
        process.stdin.close()
    assert main(["sign", str(signed), "--key", str(keys[0])]) == 0
    assert verify(signed, keys[1]) == 0
    assert not list(signed.parent.glob(".*partial"))


@pytest.mark.parametrize("step", range(6))
def test_a_death_at_each_step_leaves_a_whole_signature_or_none(signed, keys, step, monkeypatch):
    """As a kill at every change of the release's folder: the rest of the signing does not happen."""

    class Killed(BaseException):
        pass

    done = []

    def count(change):
        def changed(*arguments, **options):
            if len(done) >= step:
                done.append("killed")
                raise Killed
            done.append(change)
            return change(*arguments, **options)

        return changed

    for name in ("unlink", "rename", "mkdir"):
        monkeypatch.setattr(Path, name, count(getattr(Path, name)))
    with suppress(Killed):
        main(["sign", str(signed), "--key", str(keys[0])])
    monkeypatch.undo()
    whole = (signed / "model.sig").exists()
    assert verify(signed, keys[1]) == (0 if whole else 1)
    assert main(["verify", str(signed), "--target", "onnx"]) == 0
    assert main(["sign", str(signed), "--key", str(keys[0])]) == 0
    assert verify(signed, keys[1]) == 0


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *(
            (name, content)
            for name in ("provenance.json", "bom.cdx.json")
            for content in (None, "", "[]", '{"a": NaN}')
        ),
        *(("provenance.json", content) for content in ("{}", '{"_type": "https://in-toto.io/Statement/v1"}')),
        ("bom.cdx.json", "[" * 100_000),
    ],
)
def test_documents_that_are_none_are_not_signed(signed, keys, name, content, capsys):
    """Sealed into the manifest, as somebody might who wants them signed."""
    from yizhi.release.manifest import read_manifest, write_manifest
    from yizhi.storage.digests import describe_file

    (signed / name).unlink()
    if content is not None:
        (signed / name).write_text(content)
    manifest = read_manifest(signed)
    del manifest["documents"][name]
    if content is not None:
        manifest["documents"][name] = describe_file(signed / name)
    write_manifest(signed, manifest)
    assert main(["sign", str(signed), "--key", str(keys[0])]) == 2
    assert name in capsys.readouterr().err
    assert verify(signed, keys[1]) == 1


@pytest.mark.parametrize("name", FILES)
def test_a_folder_in_a_signatures_place_is_not_signed_over(signed, keys, name):
    (signed / name).unlink()
    (signed / name).mkdir()
    assert main(["sign", str(signed), "--key", str(keys[0])]) == 1
    assert (signed / name).is_dir()


@pytest.mark.parametrize("curve", ["SECP256R1", "SECP384R1", "SECP521R1"])
def test_every_curve(signed, tmp_path, curve):
    private, public = make_keys(tmp_path / "keys", curve)
    assert main(["sign", str(signed), "--key", str(private)]) == 0
    assert verify(signed, public) == 0


BAD_KEYS = ("secp256k1", "rsa", "ed25519", "password", "certificate", "empty", "huge", "pipe", "none")


@pytest.mark.parametrize("kind", BAD_KEYS)
@pytest.mark.parametrize(("name", "command"), [("private", ["sign", "--key"]), ("public", ["verify", "--public-key"])])
def test_keys_that_cannot_be_used(signed, tmp_path, kind, name, command, capsys):
    write_bad_key(tmp_path / name, kind)
    assert main([*command, str(tmp_path / name), str(signed)]) == 2
    assert name in capsys.readouterr().err


def write_bad_key(path, kind):
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    kinds = {
        "secp256k1": lambda: ec.generate_private_key(ec.SECP256K1()),
        "rsa": lambda: rsa.generate_private_key(65537, 2048),
        "ed25519": ed25519.Ed25519PrivateKey.generate,
        "password": lambda: ec.generate_private_key(ec.SECP256R1()),
    }
    others = {"certificate": b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "empty": b""}
    if kind in kinds:
        key, pem = kinds[kind](), serialization.Encoding.PEM
        hidden = serialization.NoEncryption()
        if kind == "password":
            hidden = serialization.BestAvailableEncryption(b"secret")
        if path.name == "private" or kind == "password":
            path.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, hidden))
        else:
            path.write_bytes(key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind != "none":
        path.write_bytes(others.get(kind, b" " * (1 << 25)))


def test_a_link_to_a_release_is_the_release(signed, keys):
    link = signed.parent / "current"
    link.symlink_to(signed.name)
    assert main(["sign", str(link), "--key", str(keys[0])]) == 0
    assert verify(link, keys[1]) == 0


def test_a_hostile_name_does_not_reach_the_terminal(signed, keys, capsys):
    (signed / "report" / "\x1b[2Jx").symlink_to("nowhere")
    assert main(["sign", str(signed), "--key", str(keys[0])]) == 1
    assert verify(signed, keys[1]) == 1
    assert "\x1b" not in capsys.readouterr().err


def test_a_death_within_the_signature_leaves_none(signed, keys, monkeypatch):
    """As a kill while the signature's file is being written."""

    class Killed(BaseException):
        pass

    write = Path.write_text

    def die(*_, **__):
        raise Killed

    def write_half(path, text, **options):
        write(path, text[: len(text) // 2], **options)
        monkeypatch.setattr(Path, "unlink", die)  # nothing is tidied up after a kill
        raise Killed

    monkeypatch.setattr(Path, "write_text", write_half)
    with pytest.raises(Killed):
        main(["sign", str(signed), "--key", str(keys[0])])
    monkeypatch.undo()
    assert not (signed / "model.sig").exists()
    assert main(["verify", str(signed), "--target", "onnx"]) == 0


def test_two_signers_at_once_do_not_mix(signed, keys):
    from yizhi.storage.locks import hold

    with hold(signed, "held"):
        assert main(["sign", str(signed), "--key", str(keys[0])]) == 2
    assert verify(signed, keys[1]) == 0


def test_a_release_in_the_working_folder(signed, keys, monkeypatch):
    monkeypatch.chdir(signed)
    assert main(["sign", ".", "--key", str(keys[0])]) == 0
    assert verify(".", keys[1]) == 0
    monkeypatch.chdir(signed.parent)
    shutil.move(signed, "moved")  # a signature goes with its release, whatever the folder is called
    assert verify("moved", keys[1]) == 0


def test_json_stays_json(signed, keys, capsys):
    assert main(["verify", str(signed), "--target", "onnx", "--public-key", str(keys[1]), "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == {"onnx"}
