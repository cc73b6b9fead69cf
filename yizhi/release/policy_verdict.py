"""Whether a release meets a policy: one function of the manifest and the signature."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from yizhi.release.policy import Policy
from yizhi.release.revocation import Withdrawal
from yizhi.release.statements import Signature, format_time
from yizhi.storage.codec import to_plain

UNKNOWN = "unknown"
# How far a signer's clock may be ahead of the verifier's.
LEEWAY = timedelta(minutes=10)

Outcome = Literal["met", "unmet", "not run"]


@dataclass(frozen=True)
class Finding:
    """One demand, and the fact that was found. `not run`: the release does not say, because nothing was judged."""

    demand: str
    outcome: Outcome
    found: str


@dataclass(frozen=True)
class PolicyVerdict:
    """Every demand of one policy, with the facts found. It passes only if all demands are met."""

    policy: str
    findings: tuple[Finding, ...]
    signature: Signature | None = None

    @property
    def faults(self) -> list[str]:
        """The unmet demands, a line each."""
        return [f"{one.demand}: {one.found}" for one in self.findings if one.outcome != "met"]

    @property
    def passed(self) -> bool:
        """Whether every demand is met."""
        return not self.faults

    @property
    def not_run(self) -> bool:
        """Whether no demand is unmet, and some were not judged."""
        return {one.outcome for one in self.findings} - {"met"} == {"not run"}

    @property
    def bad_input(self) -> bool:
        """False: a policy that cannot be read has no verdict."""
        return False

    @property
    def may_run(self) -> bool:
        """Whether an accepted signer signed the release, and nobody withdrew it. Only then is it opened."""
        return all(one.outcome == "met" for one in self.findings if one.demand in ("signers", "revoked"))

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with the keys of a target."""
        signed = self.signature
        return {
            "policy": self.policy,
            "passed": self.passed,
            "not_run": self.not_run,
            "faults": self.faults,
            "demands": [to_plain(one) for one in self.findings],
            "signature": signed
            and {"signer": signed.signer, "signed_at": format_time(signed.signed_at), "proven": signed.proven},
        }


def judge(
    policy: Policy,
    manifest: Mapping[str, Any],
    sha256: str,
    signature: Signature | str,
    withdrawn: Mapping[str, Withdrawal],
    now: datetime,
) -> PolicyVerdict:
    """Compare a release with a policy. Reads nothing but the arguments.

    manifest, sha256: the release's, and its digest. signature: the accepted one, or why none is accepted.
    withdrawn: the withdrawn releases of all lists, by digest. now: in UTC.
    """
    findings = [
        _judge_signature(signature),
        *_judge_withdrawal(policy, sha256, withdrawn),
        *_judge_age(policy, signature, now),
        *_judge_license(policy, manifest),
        *_judge_targets(policy, manifest),
        *_judge_gates(policy, manifest),
        *_judge_int8(policy, manifest),
    ]
    return PolicyVerdict(str(policy.path), tuple(findings), signature if isinstance(signature, Signature) else None)


def _judge_signature(signature: Signature | str) -> Finding:
    if isinstance(signature, str):
        return Finding("signers", "unmet", signature)
    return Finding("signers", "met", signature.describe())


def _judge_withdrawal(policy: Policy, sha256: str, withdrawn: Mapping[str, Withdrawal]) -> Iterator[Finding]:
    if sha256 in withdrawn:
        yield Finding("revoked", "unmet", describe_withdrawal(sha256, withdrawn[sha256]))
    elif policy.revoked or withdrawn:
        yield Finding("revoked", "met", f"{sha256} is not among {len(withdrawn)} withdrawn releases")


def describe_withdrawal(sha256: str, withdrawal: Withdrawal) -> str:
    """The withdrawal as a sentence."""
    return f"{sha256} was withdrawn on {withdrawal.since}: {withdrawal.reason}"


def _judge_age(policy: Policy, signature: Signature | str, now: datetime) -> Iterator[Finding]:
    if policy.max_age_days is None:
        return
    if isinstance(signature, str):
        yield Finding("max_age_days", "unmet", "not signed by an accepted signer, so its age is not known")
        return
    age, most = now - signature.signed_at, timedelta(days=policy.max_age_days)
    told = f"expected at most {policy.max_age_days} days; signed at {format_time(signature.signed_at)}"
    if age < -LEEWAY:
        told = f"signed at {format_time(signature.signed_at)}, which is in the future"
    yield Finding("max_age_days", "met" if -LEEWAY <= age <= most else "unmet", told)


def _judge_license(policy: Policy, manifest: Mapping[str, Any]) -> Iterator[Finding]:
    if policy.licenses:
        found = str(manifest["source"].get("license", UNKNOWN)).lower()
        told = f"expected one of {', '.join(policy.licenses)}; found {found}"
        yield Finding("licenses", "met" if found in policy.licenses else "unmet", told)


def _judge_targets(policy: Policy, manifest: Mapping[str, Any]) -> Iterator[Finding]:
    artifacts = manifest["artifacts"]
    for target in policy.targets:
        demand = f"targets: {target}"
        if target not in artifacts:
            yield Finding(demand, "unmet", f"is not in the release, which has {', '.join(sorted(artifacts))}")
        elif artifacts[target]["parity"]["passed"]:
            yield Finding(demand, "met", "is in the release, and passed")
        else:
            yield Finding(demand, "unmet", "is in the release, and did not pass")


def _judge_gates(policy: Policy, manifest: Mapping[str, Any]) -> Iterator[Finding]:
    verdicts = {name: artifact["parity"] for name, artifact in manifest["artifacts"].items()}
    for gate in policy.gates:
        yield Finding(f"gates: {gate}", *_GATES[gate](verdicts))


def _judge_head(verdicts: Mapping[str, Any]) -> tuple[Outcome, str]:
    found = {head["verdict"] for parity in verdicts.values() if (head := parity.get("head"))} or {"not judged"}
    told = f"the masked-language-model head is {' and '.join(sorted(found))}"
    if found == {"trained"}:
        return "met", told
    return "not run" if found == {"not judged"} else "unmet", told


def _judge_published(verdicts: Mapping[str, Any]) -> tuple[Outcome, str]:
    checks = [check for parity in verdicts.values() if (check := parity.get("published"))]
    compared = sum(check["values"] for check in checks)
    faults = sum(len(check["faults"]) for check in checks)
    told = f"{compared} published numbers were compared, and {faults} disagree"
    return "unmet" if faults else "met" if compared else "not run", told


def _judge_weights(verdicts: Mapping[str, Any]) -> tuple[Outcome, str]:
    counts = {name: parity.get("weights", {}) for name, parity in verdicts.items()}
    unread = sorted(name for name, count in counts.items() if not sum(count.get(how, 0) for how in _WAYS))
    if unread:
        return "not run", f"no stored tensor was compared of {', '.join(unread)}"
    return "met", "every artifact's stored tensors were compared with the checkpoint's"


def _judge_graphs(verdicts: Mapping[str, Any]) -> tuple[Outcome, str]:
    graphs = {name: parity for name, parity in verdicts.items() if name.startswith(_WITH_GRAPHS)}
    unread = sorted(name for name, parity in graphs.items() if not parity.get("weights", {}).get("graphs"))
    if unread or not graphs:
        targets = ", ".join(unread) or "any: there is no ONNX, OpenVINO or LiteRT artifact"
        return "not run", f"no graph was compared of {targets}"
    return "met", "every graph was compared with the one that the code writes"


def _judge_integers(verdicts: Mapping[str, Any]) -> tuple[Outcome, str]:
    return _judge_int8_part(verdicts, "integers", "the exact integer sums")


def _judge_sentences(verdicts: Mapping[str, Any]) -> tuple[Outcome, str]:
    return _judge_int8_part(verdicts, "sentences", "the quality on everyday sentences")


def _judge_int8_part(verdicts: Mapping[str, Any], part: str, what: str) -> tuple[Outcome, str]:
    int8 = _only_int8(verdicts)
    lacking = sorted(name for name, parity in int8.items() if not parity.get(part))
    if lacking or not int8:
        return "not run", f"{what}: not judged of {', '.join(lacking) or 'any: there is no int8 artifact'}"
    return "met", f"{what}: judged"


# Of `weights` in a record: how stored tensors were compared.
_WAYS = ("exact", "requantized", "rounded")
# How the names of targets begin whose files say what is computed.
_WITH_GRAPHS = ("onnx", "openvino", "litert")
_GATES = {
    "graphs": _judge_graphs,
    "head": _judge_head,
    "integers": _judge_integers,
    "published": _judge_published,
    "sentences": _judge_sentences,
    "weights": _judge_weights,
}


def _only_int8(verdicts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: parity for name, parity in verdicts.items() if parity["precision"] == "int8"}


def _judge_int8(policy: Policy, manifest: Mapping[str, Any]) -> Iterator[Finding]:
    int8 = _only_int8({name: artifact["parity"] for name, artifact in manifest["artifacts"].items()})
    for name, limit in (policy.int8 or {}).items():
        kind, measure = name.split("_", 1)
        if not int8:
            yield Finding(f"int8: {name}", "not run", "the release has no int8 artifact")
        for target, parity in int8.items():
            figures = _read_figures(parity, measure)
            worst = (min if kind == "min" else max)(figures, default=None)
            told = f"{target}: expected {'at least' if kind == 'min' else 'at most'} {limit:g}; found "
            if worst is None:
                yield Finding(f"int8: {name}", "not run", f"{told}none: it was not measured")
            else:
                good = worst >= limit if kind == "min" else worst <= limit
                yield Finding(f"int8: {name}", "met" if good else "unmet", f"{told}{worst:g}")


def _read_figures(parity: Mapping[str, Any], measure: str) -> list[float]:
    """The manifest's figures of one measure: on random ids, on everyday sentences, or on both."""
    sentences = parity.get("sentences") or {}
    if measure in ("top1", "top5", "kl_mean"):
        places = [parity.get("quality") or {}, sentences.get("masked") or {}]
        found = [place.get(measure) for place in places]
    elif measure == "label_error":
        found = [parity.get(measure)]
    else:
        found = [sentences.get(_OF_SENTENCES[measure])]
    return [value for value in found if isinstance(value, int | float)]  # the schema leaves figures' types open


# The policy's name of a measure of sentences -> the manifest's.
_OF_SENTENCES = {"token_cosine": "token_p01", "vector_cosine": "vector_mean", "order": "order"}
