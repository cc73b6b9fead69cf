"""Addresses: what is one, and what is refused before anything is asked."""

import sys

import pytest

from yizhi.cli import main
from yizhi.errors import InputError
from yizhi.registries.address import HubAddress, OciAddress, parse_address

DIGEST = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hf://org/name", HubAddress("org/name", None)),
        ("hf://org/na.me_1@v1.0", HubAddress("org/na.me_1", "v1.0")),
        ("hf://org/name@feature/x", HubAddress("org/name", "feature/x")),
        ("oci://localhost:5000/name:1.0", OciAddress("localhost:5000", "name", "1.0")),
        ("oci://registry.example.org/a/b-c/d:latest", OciAddress("registry.example.org", "a/b-c/d", "latest")),
        (f"oci://[::1]:5000/name@{DIGEST}", OciAddress("[::1]:5000", "name", DIGEST)),
    ],
)
def test_an_address_is_read_and_written(text, expected):
    assert parse_address(text) == expected
    assert str(expected) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "org/name",
        "hf://name",
        "hf://org/name/more",
        "hf://org/name@",
        "hf://org/name@../main",
        "hf://org/name@a b",
        "hf://org/name\n@main",
        "oci://host/name",
        "oci://host/Name:1",
        "oci://host/../name:1",
        "oci://user:password@host/name:1",
        "oci://host/name:1@sha256:0",
        "oci://host/name:tag/../x",
        "oci://host?x/name:1",
        "https://host/name:1",
        "file:///etc/passwd",
    ],
)
def test_what_is_no_address_is_refused(text):
    with pytest.raises(InputError, match="expected hf://ORG/NAME"):
        parse_address(text)


@pytest.mark.parametrize(
    ("address", "library", "module", "extra"),
    [
        ("oci://localhost:1/name:1", "oras", "oci", "yizhi[oci]"),
        ("hf://org/name", "huggingface_hub", "hub", "yizhi[hub]"),
    ],
)
def test_what_is_not_installed_is_named(finished_release, monkeypatch, capsys, address, library, module, extra):
    for name in [name for name in sys.modules if name.partition(".")[0] == library]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, library, None)
    for name in (module, f"{module}_client"):
        monkeypatch.delitem(sys.modules, f"yizhi.registries.{name}", raising=False)
    assert main(["push", str(finished_release), "--to", address]) == 2
    assert f"pip install '{extra}'" in capsys.readouterr().err
