"""ONNX artifacts as a browser computes them: onnxruntime-web's WebAssembly, in a Node process. Needs no onnxruntime."""

import json
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from yizhi.choices import WASM
from yizhi.converters.onnx_files import U8U8, WEIGHT_FILE, graph_file, step_feeds, step_outputs
from yizhi.converters.quantize import INTEGERS
from yizhi.errors import InputError, NotRun
from yizhi.model.spec import LOGITS_AT, POSITIONS, STEP
from yizhi.runtimes.base import Inputs, Outputs, Runtime
from yizhi.runtimes.onnxruntime_web import FILES, LIBRARY, ONNXRUNTIME_WEB
from yizhi.runtimes.past import Past
from yizhi.runtimes.web_graph import adapt_graph
from yizhi.storage.npm import find_tarball, read_files

OLDEST_NODE = 20
_CHILD = Path(__file__).with_name("wasm_child.mjs")


class WasmRuntime(Runtime):
    """A session per signature in one Node process. The process computes one request at a time, on one thread.

    The graphs are those that `yizhi package` writes for the web. A browser runs on any processor. So the graphs of an
    int8 artifact come from those whose integer sums are exact on every processor.
    """

    tiers: Mapping[str, Sequence[str]] = {WASM: ("strict",)}

    def _open(self) -> None:
        node = find_node()
        self._asking, self._adapting = threading.Lock(), threading.Lock()
        self._files = tempfile.TemporaryDirectory()
        self._folder = folder = Path(self._files.name)
        for name, data in read_files(find_tarball(ONNXRUNTIME_WEB), FILES).items():
            (folder / Path(name).name).write_bytes(data)
        command = [node, str(_CHILD), str(folder / LIBRARY)]
        self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._questions, self._answers = cast(IO[bytes], self._child.stdin), cast(IO[bytes], self._child.stdout)

    def _run(self, inputs: Inputs, outputs: tuple[str, ...]) -> Mapping[str, NDArray]:
        return self._compute(self.signature_for(outputs), inputs.as_dict(), outputs)

    def _logits_at(self, inputs: Inputs, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._compute(LOGITS_AT, {**inputs.as_dict(), POSITIONS: positions}, ("logits",))["logits"]

    def _step_after(
        self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64], past: Past
    ) -> Sequence[NDArray[np.float32]]:
        names = step_outputs(len(past.layers))
        feeds: dict[str, NDArray] = {"input_ids": input_ids, "attention_mask": attention_mask}
        found = self._compute(STEP, feeds | step_feeds(past.arrays), names)
        return [found[name] for name in names]

    def forget(self, signature: str) -> None:
        """Close the signature's session: WebAssembly has at most 4 GiB for all sessions."""
        self._ask({"command": "release", "graph": str(self._graph(signature))})

    def settings(self) -> dict[str, str]:
        """Versions and threads. For int8, also the kind of products."""
        found = {ONNXRUNTIME_WEB.name: ONNXRUNTIME_WEB.version, "node": read_version(find_node()), "threads": "1"}
        return found | ({"products": U8U8} if self.artifact.description["precision"] == "int8" else {})

    def integer_sums(self, rows: NDArray[np.uint8]) -> Mapping[str, Outputs]:
        """What the graph of sums gives for uint8 rows [N, widest]: NAME.sums [N, outputs]."""
        names = self._ask({"command": "names", **self._place(INTEGERS)})[0]["names"]
        return {U8U8: self._compute(INTEGERS, {"rows": rows}, names)}

    def describe_int8_kernels(self) -> str:
        """WebAssembly's vector instructions, on every processor."""
        return "wasm simd128"

    def close(self) -> None:
        """End the process: it ends when its input is closed."""
        with suppress(BrokenPipeError):
            self._questions.close()
        self._child.wait()
        self._answers.close()
        self._files.cleanup()

    def _graph(self, signature: str) -> Path:
        return self._folder / graph_file(signature)

    def _place(self, signature: str) -> dict[str, str]:
        graph = self._graph(signature)
        with self._adapting:
            if not graph.exists():
                released = (self.artifact.folder / graph.name).read_bytes()
                graph.write_bytes(adapt_graph(released, self.artifact.description["precision"]))
        return {"graph": str(graph), "weights": str(self.artifact.folder / WEIGHT_FILE)}

    def _compute(self, signature: str, feeds: Mapping[str, NDArray], outputs: Sequence[str]) -> Outputs:
        tensors, blobs = [], []
        for name, array in feeds.items():
            blobs.append(array.tobytes())
            kind = {"name": name, "type": str(array.dtype), "dims": list(array.shape), "bytes": len(blobs[-1])}
            tensors.append(kind)
        request = {"command": "run", **self._place(signature), "outputs": list(outputs), "tensors": tensors}
        told, found = self._ask(request, blobs)
        return {
            tensor["name"]: np.frombuffer(data, tensor["type"]).reshape(tensor["dims"])
            for tensor, data in zip(told["tensors"], found, strict=True)
        }

    def _ask(self, request: Mapping[str, Any], blobs: Sequence[bytes] = ()) -> tuple[dict[str, Any], list[bytes]]:
        """Raises InputError if WebAssembly refuses, such as for a model beyond its memory."""
        with self._asking:
            try:
                told, found = self._exchange(request, blobs)
            except (BrokenPipeError, EOFError):
                code = self._child.wait()  # killed for memory, or by somebody
                fault = f"the Node process that runs WebAssembly ended: exit code {code}"
                raise InputError(self.artifact.folder, fault) from None
        if "error" in told:
            raise InputError(self.artifact.folder, f"cannot be run in WebAssembly: {told['error']}")
        return told, found

    def _exchange(self, request: Mapping[str, Any], blobs: Sequence[bytes]) -> tuple[dict[str, Any], list[bytes]]:
        self._questions.write(json.dumps(request).encode() + b"\n")
        for blob in blobs:
            self._questions.write(blob)
        self._questions.flush()
        line = self._answers.readline()
        if not line:
            raise EOFError
        told = json.loads(line)
        return told, [self._read(tensor["bytes"]) for tensor in told["tensors"]]

    def _read(self, count: int) -> bytes:
        data = self._answers.read(count)
        if len(data) < count:
            raise EOFError
        return data


def find_node() -> str:
    """The path of Node. Raises NotRun if Node is missing, or older than the oldest supported version."""
    node = shutil.which("node")
    if not node:
        raise NotRun("`runtime` wasm", f"needs Node {OLDEST_NODE} or newer; found no node")
    found = read_version(node)
    major = re.match(r"v(\d+)\.", found)
    if not major or int(major[1]) < OLDEST_NODE:
        raise NotRun("`runtime` wasm", f"needs Node {OLDEST_NODE} or newer; found {found or 'one without a version'}")
    return node


def read_version(node: str) -> str:
    """Node's own version, such as v20.20.2."""
    return subprocess.run([node, "-v"], capture_output=True, text=True, check=False).stdout.strip()
