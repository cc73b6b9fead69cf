"""`yizhi verify --policy`: exit codes, and what the table, JSON, JUnit and the page say."""

import json
import xml.etree.ElementTree as ET

import pytest

from yizhi.cli import main

pytest.importorskip("model_signing", reason="pip install 'yizhi[release]'")

pytestmark = pytest.mark.slow


@pytest.fixture
def write_policy(tmp_path, keys, other_keys):
    """`write_policy('targets = ["onnx"]')`, with this signer's key, and its path."""

    def write(demands="", key=keys[1]):
        path = tmp_path / "policy.toml"
        path.write_text(f'schema_version = 1\nsigners = [{{public_key = "{key}"}}]\n{demands}\n')
        return path

    return write


def admit(release, policy, *options):
    return main(["verify", str(release), "--target", "onnx", "--policy", str(policy), *map(str, options)])


def test_a_release_that_meets_it(signed, write_policy, capsys):
    policy = write_policy('licenses = ["unknown"]\ntargets = ["onnx", "onnx-int8"]\ngates = ["weights", "integers"]')
    assert admit(signed, policy) == 0
    told = capsys.readouterr().out
    assert "policy: signers: met: signed by key" in told
    assert "policy: gates: integers: met" in told
    assert "1 of 1 passed\n" in told


def test_all_unmet_demands_are_told_and_the_release_is_run(signed, write_policy, capsys):
    policy = write_policy('licenses = ["mit"]\ntargets = ["flax"]\nint8 = {min_top5 = 1.1}')
    assert admit(signed, policy) == 1
    told = capsys.readouterr().out
    assert told.count(": unmet: ") == 3
    assert "not fit for release" in told
    assert "logits" in told


def test_a_gate_that_was_not_run(signed, write_policy, capsys):
    assert admit(signed, write_policy('gates = ["head", "published"]')) == 3
    assert "policy: gates: head: not run" in capsys.readouterr().out
    assert admit(signed, write_policy('gates = ["head"]\nlicenses = ["mit"]')) == 1


@pytest.mark.parametrize("unsigned", [True, False])
def test_what_no_accepted_signer_vouches_for_is_not_run(
    signed, finished_release, write_policy, other_keys, unsigned, capsys, monkeypatch
):
    monkeypatch.setattr("yizhi.pipeline.recheck.verify_path", None)  # calling it would fail
    release, policy = (finished_release, write_policy()) if unsigned else (signed, write_policy(key=other_keys[1]))
    assert admit(release, policy) == 1
    told = capsys.readouterr().out
    assert "policy: signers: unmet" in told
    assert "no artifact was run: not fit for release" in told
    assert "files agree" not in told


def test_one_of_several_signers_is_enough(signed, write_policy, other_keys, keys, tmp_path):
    policy = tmp_path / "both.toml"
    signers = ", ".join(f'{{public_key = "{key}"}}' for key in (other_keys[1], keys[1]))
    policy.write_text(f"schema_version = 1\nsigners = [{signers}]")
    assert admit(signed, policy) == 0


def test_a_withdrawn_release_is_not_run(signed, write_policy, keys, tmp_path, capsys):
    listed = tmp_path / "withdrawn.json"
    arguments = ["revoke", str(signed), "--list", str(listed), "--reason", "bad", "--key", str(keys[0])]
    assert main(arguments) == 0
    assert admit(signed, write_policy('revoked = "withdrawn.json"')) == 1
    assert admit(signed, write_policy(), "--revoked", listed) == 1
    assert capsys.readouterr().out.count("was withdrawn on") == 2


def test_a_list_that_is_not_there_is_not_ignored(signed, write_policy, capsys):
    assert admit(signed, write_policy('revoked = "withdrawn.json"')) == 2
    assert "withdrawn.json:\n  - the file is missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("demands", "told"),
    [
        ('targets = ["onyx"]', "targets: unknown: onyx"),
        ('licences = ["mit"]', "'licences': not known here"),
        ('gates = ["speed"]', "gates[0]"),
    ],
)
def test_a_faulty_policy(signed, write_policy, demands, told, capsys):
    assert admit(signed, write_policy(demands)) == 2
    assert told in capsys.readouterr().err


def test_a_key_that_is_missing(signed, write_policy, tmp_path, capsys):
    assert admit(signed, write_policy(key=tmp_path / "none.pub")) == 2
    assert "none.pub" in capsys.readouterr().err


def test_a_policy_and_a_key_are_one_too_many(signed, write_policy, keys, capsys):
    assert admit(signed, write_policy(), "--public-key", keys[1]) == 2
    assert "--public-key: the policy says" in capsys.readouterr().err


def test_an_artifact_has_no_manifest_to_judge(signed, write_policy, capsys):
    assert main(["verify", str(signed / "onnx"), "--policy", str(write_policy())]) == 2
    assert "is one artifact" in capsys.readouterr().err


def test_an_altered_release_is_refused(signed, write_policy, capsys):
    (signed / "onnx" / "vocab.txt").write_text("other")
    assert admit(signed, write_policy()) == 1
    assert "no artifact was run: not fit for release" in capsys.readouterr().out


def test_json_has_it_beside_the_targets(signed, write_policy, capsys):
    assert admit(signed, write_policy('licenses = ["mit"]\ngates = ["head"]'), "--json") == 1
    told = json.loads(capsys.readouterr().out)
    assert set(told) == {"onnx", "policy"}
    assert told["onnx"]["passed"]
    assert {key: told["policy"][key] for key in ("passed", "not_run")} == {"passed": False, "not_run": False}
    assert {one["demand"]: one["outcome"] for one in told["policy"]["demands"]} == {
        "signers": "met",
        "licenses": "unmet",
        "gates: head": "not run",
    }
    assert len(told["policy"]["faults"]) == 2
    assert told["policy"]["signature"]["proven"] is False


@pytest.mark.parametrize("vouched", [True, False])
def test_the_reports_agree(signed, write_policy, other_keys, tmp_path, vouched):
    demands = 'licenses = ["mit"]\ngates = ["head"]'
    policy = write_policy(demands) if vouched else write_policy(demands, other_keys[1])
    assert admit(signed, policy, "--report", tmp_path / "report") == 1
    found = json.loads((tmp_path / "report" / "parity.json").read_text())
    assert not found["passed"]
    assert set(found["targets"]) == ({"onnx"} if vouched else set())
    assert not found["policy"]["passed"]
    root = ET.parse(tmp_path / "report" / "parity.xml").getroot()
    suite = root.find("testsuite[@name='policy']")
    assert {case.get("name"): [child.tag for child in case] for case in suite} == {
        "signers": [] if vouched else ["failure"],
        "licenses": ["failure"],
        "gates: head": ["skipped"],
    }
    assert (suite.get("failures"), suite.get("skipped")) == ("1" if vouched else "2", "1")
    assert int(root.get("failures")) == int(suite.get("failures"))
    page = (tmp_path / "report" / "parity.html").read_text()
    assert "Not fit for release" in page
    assert "expected one of mit; found unknown" in page


def test_a_report_without_a_policy_is_as_it_was(signed, tmp_path):
    assert main(["verify", str(signed), "--target", "onnx", "--report", str(tmp_path / "report")]) == 0
    assert "policy" not in json.loads((tmp_path / "report" / "parity.json").read_text())
    assert "policy" not in (tmp_path / "report" / "parity.xml").read_text()


def test_one_signer_is_enough_where_another_cannot_be_asked(signed, write_policy, tmp_path, capsys):
    policy = write_policy()
    broken = 'signers = [{identity = "a@example.org", identity_provider = "https://example.org", trust_config = "no"}'
    policy.write_text(policy.read_text().replace("signers = [", f"{broken}, "))
    assert admit(signed, policy) == 0
    capsys.readouterr()
    policy.write_text(f"schema_version = 1\n{broken}]\n")
    assert admit(signed, policy) == 2
    assert "policy.toml:\n  - signers[0]: " in capsys.readouterr().err
