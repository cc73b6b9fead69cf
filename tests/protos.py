"""Message classes of other projects, from the descriptors in their published wheels.

The wheels are read, not installed: their packages hold other versions of protobuf and TensorFlow back.
"""

import ast
import importlib
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest


def download_wheel(requirement: str, folder: Path) -> Path:
    """The wheel, without its dependencies; skips where pip cannot get it."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    done = subprocess.run([*command, "--dest", folder, requirement], capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        why = done.stderr.strip().splitlines() or ["no wheel"]
        pytest.skip(f"pip cannot download {requirement} here: {why[-1]}")
    return wheels[0]


class WheelProtos:
    """The `.proto` files that a wheel's `_pb2` modules were made from; what they import may be installed."""

    def __init__(self, wheel: Path) -> None:
        from google.protobuf import descriptor_pb2, descriptor_pool

        self._pool = descriptor_pool.DescriptorPool()
        self._added: set[str] = set()
        self._files = {}
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if name.endswith("_pb2.py"):
                    for serialized in _serialized_files(archive.read(name).decode()):
                        file = descriptor_pb2.FileDescriptorProto.FromString(serialized)
                        self._files[file.name] = file

    def message(self, file: str, name: str) -> type:
        """The class of a message of this `.proto` file."""
        from google.protobuf import message_factory

        self._add(file)
        return message_factory.GetMessageClass(self._pool.FindMessageTypeByName(name))

    def _add(self, name: str) -> None:
        if name in self._added:
            return
        self._added.add(name)
        if name in self._files:
            file = self._files[name]
            for dependency in file.dependency:
                self._add(dependency)
            self._pool.Add(file)
            return
        installed = _find_installed(name)
        for dependency in installed.dependencies:
            self._add(dependency.name)
        self._pool.AddSerializedFile(installed.serialized_pb)


def _find_installed(name: str) -> Any:
    """The descriptor of a `.proto` file of an installed package; those that its modules import are registered then."""
    from google.protobuf import descriptor_pool

    pool = descriptor_pool.Default()
    try:
        return pool.FindFileByName(name)
    except KeyError:
        importlib.import_module(name.removesuffix(".proto").replace("/", ".") + "_pb2")
        return pool.FindFileByName(name)


def _serialized_files(source: str) -> list[bytes]:
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    return [
        ast.literal_eval(call.args[0])
        for call in calls
        if isinstance(call.func, ast.Attribute) and call.func.attr == "AddSerializedFile"
    ]
