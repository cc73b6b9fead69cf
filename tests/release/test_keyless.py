"""`yizhi sign --keyless` and `yizhi verify --identity`, against a Sigstore on loopback."""

import json
import secrets
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.checkpoints import write_variant
from yizhi.cli import main

pytest.importorskip("model_signing", reason="pip install 'yizhi[release]'")

pytestmark = pytest.mark.slow

WHO = "release@example.org"


@pytest.fixture(scope="module", params=[1, 2], ids=["rekor v1", "rekor v2 and a TSA"])
def sigstore(request):
    from tests.release.fake_sigstore import run_sigstore

    with run_sigstore(request.param) as fake:
        yield fake


@pytest.fixture(scope="module")
def release(tmp_path_factory) -> Path:
    """An unsigned release."""
    folder = tmp_path_factory.mktemp("keyless")
    checkpoint = write_variant(folder / "checkpoint", "bert")
    assert main(["export", str(checkpoint), "--out", str(folder / "release"), "--target", "onnx"]) == 0
    return folder / "release"


@pytest.fixture
def desk(sigstore, release, tmp_path):
    """Commands on a copy of the release: `desk("sign", "--keyless", …)`, with this Sigstore's configuration."""
    copy = Path(shutil.copytree(release, tmp_path / "release"))
    trust = sigstore.write_trust_config(tmp_path / "trust.json")
    (tmp_path / "token").write_text(sigstore.token() + "\n")

    def run(command, *options):
        return main([command, str(copy), *map(str, options), "--trust-config", str(trust)])

    run.release, run.trust, run.token = copy, trust, tmp_path / "token"
    return run


def sign(desk):
    return desk("sign", "--keyless", "--identity-token", desk.token)


def verify(desk, sigstore, who=WHO, provider=None):
    return desk("verify", "--identity", who, "--identity-provider", provider or sigstore.url)


def test_an_identity_signs_and_is_asked_for(desk, sigstore, capsys):
    before = sigstore.entries
    assert sign(desk) == 0
    assert sigstore.entries == before + 4  # three statements, and the files
    assert verify(desk, sigstore) == 0
    assert f"signed by {WHO} (by {sigstore.url}) at 20" in capsys.readouterr().out
    assert verify(desk, sigstore, who="thief@example.org") == 1
    assert "thief@example.org" in capsys.readouterr().err
    assert verify(desk, sigstore, provider="https://accounts.example.org") == 1


def test_sigstores_own_command_finds_a_file_attested(desk, sigstore, tmp_path):
    assert sign(desk) == 0
    provenance, materials, _ = (desk.release / "attestations.sigstore.jsonl").read_text().splitlines()
    bundle = tmp_path / "line.sigstore.json"
    command = [sys.executable, "-m", "sigstore", "--trust-config", desk.trust, "verify", "identity", "--bundle", bundle]
    command += ["--cert-identity", WHO, "--cert-oidc-issuer", sigstore.url]
    for line, name, code in (
        (provenance, "onnx/model.onnx.data", 0),
        (materials, "onnx/vocab.txt", 0),
        (provenance, "report/parity.json", 1),
    ):
        bundle.write_text(line)
        done = subprocess.run([*command, desk.release / name], capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stdout + done.stderr


@pytest.mark.parametrize("victim", ["onnx/model.onnx.data", "model.sig", "attestations.sigstore.jsonl"])
def test_any_change_breaks_the_signature(desk, sigstore, victim):
    assert sign(desk) == 0
    content = bytearray((desk.release / victim).read_bytes())
    content[len(content) // 2] ^= 1
    (desk.release / victim).write_bytes(content)
    assert verify(desk, sigstore) == 1


def test_another_sigstore_is_not_believed(desk, sigstore, tmp_path, capsys):
    from tests.release.fake_sigstore import FakeSigstore

    assert sign(desk) == 0
    other = FakeSigstore(sigstore.rekor)
    other.url = sigstore.url
    other.write_trust_config(desk.trust)
    assert verify(desk, sigstore) == 1
    assert "model.sig" in capsys.readouterr().err


def test_a_line_alone_is_checked_as_strictly(desk, sigstore, tmp_path):
    """As a list of withdrawn releases is, which no model.sig covers."""
    from tests.release.fake_sigstore import FakeSigstore
    from yizhi.errors import CheckFailed
    from yizhi.release.identity_signer import IdentityChecker

    assert sign(desk) == 0
    line = (desk.release / "attestations.sigstore.jsonl").read_text().splitlines()[0]
    own = IdentityChecker(WHO, sigstore.url, desk.trust)
    assert own.check(line).payload == (desk.release / "provenance.json").read_bytes()
    altered = json.loads(line)
    altered["dsseEnvelope"]["payload"] = "e30="
    unlogged = json.loads(line)
    unlogged["verificationMaterial"]["tlogEntries"] = []
    other = FakeSigstore(sigstore.rekor)
    other.url = sigstore.url
    strangers = other.write_trust_config(tmp_path / "strangers.json")
    for checker, bundle in (
        (IdentityChecker("thief@example.org", sigstore.url, desk.trust), line),
        (IdentityChecker(WHO, "https://accounts.example.org", desk.trust), line),
        (IdentityChecker(WHO, sigstore.url, strangers), line),
        (own, json.dumps(altered)),
        (own, json.dumps(unlogged)),
        *((own, text) for text in ("", "null", "{}", "[" * 100_000)),
    ):
        with pytest.raises(CheckFailed):
            checker.check(bundle)


@pytest.mark.parametrize("part", ["ctlogs", "tlogs", "certificateAuthorities", "timestampAuthorities"])
def test_each_part_of_trust_is_checked(desk, sigstore, part):
    """With one part of the configuration from another Sigstore, nothing is accepted."""
    from tests.release.fake_sigstore import FakeSigstore

    assert sign(desk) == 0
    other = FakeSigstore(sigstore.rekor)
    other.url = sigstore.url
    theirs = json.loads(other.write_trust_config(desk.trust.with_name("other.json")).read_text())
    mixed = json.loads(desk.trust.read_text())
    mixed["trustedRoot"][part] = theirs["trustedRoot"][part]
    desk.trust.write_text(json.dumps(mixed))
    needless = part == "timestampAuthorities" and sigstore.rekor == 1  # which gives the time itself
    assert verify(desk, sigstore) == (0 if needless else 1)


def test_a_job_has_its_own_token(desk, sigstore, monkeypatch, tmp_path, capsys):
    from tests.release.fake_sigstore import JOB

    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "secret")
    monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_URL", f"{sigstore.url}/job-token?")
    assert desk("sign", "--keyless") == 0
    assert f"signed by {JOB} (by {sigstore.url})" in capsys.readouterr().out
    assert verify(desk, sigstore, who=JOB) == 0
    for _ in range(2):
        revoke = ["revoke", secrets.token_hex(32), "--list", str(tmp_path / "list"), "--reason", "a test", "--keyless"]
        assert main([*revoke, "--trust-config", str(desk.trust)]) == 0


def test_no_token(desk, sigstore, monkeypatch, capsys):
    for name in ("GITHUB_ACTIONS", "GITLAB_CI", "CIRCLECI", "BUILDKITE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("yizhi.release.identity_signer.detect_credential", lambda: None)
    assert desk("sign", "--keyless") == 2
    assert "--identity-token:\n  - is missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("token", "told"),
    [
        ("", "is no OpenID Connect token"),
        ("not a token", "is no OpenID Connect token"),
        ({"exp": 1_000_000_000}, "is no OpenID Connect token"),
        ({"aud": "somebody else"}, "is no OpenID Connect token"),
        ({"iss": "https://elsewhere.example.org"}, "cannot be used"),  # Fulcio refuses it
    ],
)
def test_a_bad_token_leaves_the_release_as_it_was(desk, sigstore, token, told, capsys):
    desk.token.write_text(token if isinstance(token, str) else sigstore.token(**token))
    assert sign(desk) == 2
    assert told in capsys.readouterr().err
    assert not (desk.release / "model.sig").exists()
    assert not (desk.release / "attestations.sigstore.jsonl").exists()


@pytest.mark.parametrize("path", ["/api/v2/signingCert", "/api/v{}/log/entries", "/timestamp"])
def test_an_endpoint_that_fails_leaves_the_old_signature(desk, sigstore, path, monkeypatch, capsys):
    assert sign(desk) == 0
    monkeypatch.setattr(sigstore, "refuse", path.format(sigstore.rekor))
    if path == "/timestamp" and sigstore.rekor == 1:  # which gives the time itself
        assert sign(desk) == 0
    else:
        assert sign(desk) == 2
        assert "trust.json" in capsys.readouterr().err
    assert verify(desk, sigstore) == 0


def test_an_endpoint_that_fails_late_leaves_no_signature(desk, sigstore, monkeypatch):
    """The statements are signed, and the files are not: the release is unsigned."""
    name, last = {1: "record", 2: "record_digest"}[sigstore.rekor], sigstore.entries + 3
    record = getattr(sigstore, name)
    monkeypatch.setattr(sigstore, name, lambda asked: record(asked) if sigstore.entries < last else {})
    assert sign(desk) == 2
    assert not (desk.release / "model.sig").exists()
    assert not (desk.release / "attestations.sigstore.jsonl").exists()
    assert main(["verify", str(desk.release)]) == 0
    assert [path.name for path in desk.release.parent.iterdir() if "partial" in path.name] == []


@pytest.mark.parametrize(("who", "provider"), [("", None), (WHO, ""), (WHO, " "), ("", "")])
def test_an_empty_name_is_not_anybody(desk, sigstore, who, provider, capsys):
    """As in a script whose variable is not set."""
    assert sign(desk) == 0
    options = ["--identity", who, "--identity-provider", sigstore.url if provider is None else provider]
    assert desk("verify", *options) == 2
    assert "expected a name" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "{", "[]", '{"mediaType": 3}', "\ud800", "[" * 100_000])
def test_a_hostile_configuration_is_refused(desk, sigstore, content, capsys):
    desk.trust.write_bytes(content.encode("utf-8", "surrogatepass"))
    assert sign(desk) == 2
    assert verify(desk, sigstore) == 2
    assert "trust.json" in capsys.readouterr().err


def test_no_endpoint_at_all(desk, sigstore, capsys):
    text = desk.trust.read_text().replace(sigstore.url, "http://127.0.0.1:9")
    desk.trust.write_text(text)
    assert sign(desk) == 2
    assert "cannot be used" in capsys.readouterr().err


def test_identities_in_a_policy_and_a_list(desk, sigstore, tmp_path, capsys):
    assert sign(desk) == 0
    listed = tmp_path / "withdrawn.json"
    signer = ["--keyless", "--identity-token", str(desk.token), "--trust-config", str(desk.trust)]
    other = "0" * 64
    assert main(["revoke", other, "--list", str(listed), "--reason", "a test", *signer]) == 0
    policy = tmp_path / "policy.toml"
    policy.write_text(
        f"""
        schema_version = 1
        revoked = "withdrawn.json"
        max_age_days = 1
        [[signers]]
        identity = "{WHO}"
        identity_provider = "{sigstore.url}"
        trust_config = "trust.json"
        """
    )
    assert main(["verify", str(desk.release), "--policy", str(policy)]) == 0
    assert main(["revoke", str(desk.release), "--list", str(listed), "--reason", "a test", *signer]) == 0
    assert main(["verify", str(desk.release), "--policy", str(policy)]) == 1
    assert "was withdrawn on" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "options", "told"),
    [
        ("verify", ["--identity", WHO], "--identity: needs --identity-provider"),
        ("verify", ["--identity-provider", "x"], "--identity-provider: needs --identity"),
        ("sign", ["--key", "k"], "--trust-config: needs --keyless"),
    ],
)
def test_options_that_need_another(desk, command, options, told, capsys):
    assert desk(command, *options) == 2
    assert told in capsys.readouterr().err
