"""The Open Inference Protocol v2 on token ids, with Triton's binary tensors.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter
from starlette.responses import Response
from typing_extensions import TypedDict

from yizhi import __version__
from yizhi.model.spec import TEXT_INPUTS, reads_image
from yizhi.runtimes.base import Inputs, Outputs, Runtime
from yizhi.runtimes.batching import EVERY, Request
from yizhi.runtimes.tokenization import Row
from yizhi.serving import refusals
from yizhi.serving.answers import json_response, to_json
from yizhi.serving.endpoint import Body, Endpoint, Exchange, Protocol, parse
from yizhi.serving.model import ServedModel
from yizhi.serving.refusals import INVALID, MALFORMED, NO_MODEL, TOO_LARGE, Refused

# Bytes of the JSON before the tensors, in a request and in an answer.
HEADER_LENGTH = "inference-header-content-length"
VERSION = "1"
_TYPES: Mapping[str, np.dtype[Any]] = {"INT64": np.dtype("<i8"), "INT32": np.dtype("<i4")}


def _refuse(refused: Refused) -> Response:
    status = 400 if refused.kind == refusals.INVALID else refused.kind.status
    return json_response({"error": refused.text}, status)


class Error(TypedDict):
    """The reason for a refusal."""

    error: str


OIP = Protocol("oip", _refuse, Error)
Parameters = dict[str, Any]


class InputTensor(Body):
    """`data` of any nesting, or binary data of `parameters.binary_data_size` bytes."""

    name: str
    shape: list[Annotated[int, Field(ge=0)]]
    datatype: str
    parameters: Parameters = Field(default_factory=dict)
    data: list[Any] | None = None


class WantedOutput(Body):
    """One output, in binary if `parameters.binary_data` is true."""

    name: str
    parameters: Parameters = Field(default_factory=dict)


class InferBody(Body):
    """`/infer`, without its binary tensors."""

    id: str | None = None
    parameters: Parameters = Field(default_factory=dict)
    inputs: list[InputTensor]
    outputs: list[WantedOutput] | None = None


_BODY = TypeAdapter(InferBody)


@dataclass(frozen=True)
class MaskedRow(Row):
    """A row of a client's tensor, which may have padding anywhere. mask: int64 [T]."""

    mask: NDArray[np.int64] = field(kw_only=True)


@dataclass(frozen=True)
class Tensors:
    """Computes rows of one length. Nothing is padded, so a row is exactly the client's.

    Equal instances share batches across clients.
    """

    runtime: Runtime
    outputs: tuple[str, ...]
    length: int

    def compute(self, requests: Sequence[Request]) -> list[Outputs]:
        """Each row's outputs, without the batch axis."""
        rows: Any = [request.row for request in requests]
        inputs = Inputs(*(np.stack([getattr(row, name) for row in rows]) for name in ("ids", "mask", "types")))
        found = self.runtime.run(inputs, self.outputs)
        return [{name: array[index] for name, array in found.items()} for index in range(len(rows))]


async def infer(exchange: Exchange, _: None) -> Response:
    """The requested outputs, or those of the artifact's default signature."""
    model = _model(exchange)
    body, rest = _split(exchange)
    wanted = body.outputs or [
        WantedOutput(name=name) for name in _of_text(model, model.runtime.signatures["serving_default"])
    ]
    inputs = _read_inputs(exchange, model, body, rest)
    _check_outputs(exchange, model, wanted, inputs)
    batch, length = inputs.input_ids.shape
    nothing = np.empty(0, np.int64)
    rows = [
        Request(MaskedRow(ids, types, nothing, nothing, mask=mask), EVERY, lambda array: array)
        for ids, mask, types in zip(*inputs.as_dict().values(), strict=True)
    ]
    exchange.texts, exchange.tokens = batch, batch * length
    names = tuple(dict.fromkeys(output.name for output in wanted))
    found = await model.compute(Tensors(model.runtime, names, length), rows)
    arrays = {name: np.stack([row[name] for row in found]) for name in names}
    everything = bool(body.parameters.get("binary_data_output"))
    outputs, binary = [], []
    for output in wanted:
        array = arrays[output.name]
        described = {"name": output.name, "datatype": "FP32", "shape": list(array.shape)}
        if output.parameters.get("binary_data", everything):
            binary.append(array.astype("<f4", copy=False).tobytes())
            outputs.append({**described, "parameters": {"binary_data_size": len(binary[-1])}})
        else:
            outputs.append({**described, "data": array.ravel()})
    named = {"id": body.id} if body.id is not None else {}
    answer = {"model_name": model.name, "model_version": VERSION, **named, "outputs": outputs}
    if not binary:
        return json_response(answer)
    head = to_json(answer)
    headers = {HEADER_LENGTH: str(len(head))}
    return Response(b"".join([head, *binary]), 200, headers, "application/octet-stream")


def _split(exchange: Exchange) -> tuple[InferBody, bytes]:
    """The JSON and the binary data after it."""
    said = exchange.headers.get(HEADER_LENGTH)
    if said is None:
        return parse(_BODY, exchange.content), b""
    if not (said.isascii() and said.isdigit()) or int(said) > len(exchange.content):
        raise Refused(MALFORMED, f"Inference-Header-Content-Length: expected at most the body's length; found {said!r}")
    return parse(_BODY, exchange.content[: int(said)]), exchange.content[int(said) :]


def _read_inputs(exchange: Exchange, model: ServedModel, body: InferBody, rest: bytes) -> Inputs:
    """Texts alone: an image is not taken. Raises Refused, listing every fault."""
    known = TEXT_INPUTS
    names = [tensor.name for tensor in body.inputs]
    faults = [f"{name}: expected one of {', '.join(known)}" for name in names if name not in known]
    faults += [f"{name}: given twice" for name in sorted({name for name in names if names.count(name) > 1})]
    if "input_ids" not in names:
        faults.append("input_ids: missing")
    arrays = {}
    for tensor in body.inputs:
        size = tensor.parameters.get("binary_data_size")
        data: bytes | list[Any] | None = tensor.data
        if size is not None:
            if type(size) is not int or not 0 <= size <= len(rest):
                faults.append(f"{tensor.name}: binary_data_size: expected 0 … {len(rest)}; found {size!r}")
                break
            data, rest = rest[:size], rest[size:]
        found = _read_tensor(tensor, data, exchange.limits.tokens)
        if isinstance(found, str):
            faults.append(f"{tensor.name}: {found}")
        else:
            arrays[tensor.name] = found
    else:
        if rest:
            faults.append(f"{len(rest)} bytes after the last tensor")
    if faults:
        raise Refused(INVALID, "; ".join(faults), "inputs")
    inputs = Inputs.of(**arrays)
    inputs.check(model.runtime.config, model.runtime.artifact.description.get("tokens"))
    return inputs


def _read_tensor(tensor: InputTensor, data: bytes | list[Any] | None, most: int) -> NDArray[Any] | str:
    """The tensor's integers, or its fault."""
    if tensor.datatype not in _TYPES:
        return f"datatype: expected {' or '.join(_TYPES)}; found {tensor.datatype!r}"
    dtype, size = _TYPES[tensor.datatype], prod(tensor.shape)
    if len(tensor.shape) != 2 or not size:
        return f"shape: expected [batch, length], neither of them 0; found {tensor.shape}"
    if size > most:
        raise Refused(TOO_LARGE, f"expected at most {most:,} tokens in a request; found {size:,}")
    if data is None:
        return "has neither data nor binary_data_size"
    if isinstance(data, bytes):
        if len(data) != size * dtype.itemsize:
            return f"expected {size * dtype.itemsize} bytes; found {len(data)}"
        return np.frombuffer(data, dtype).reshape(tensor.shape)
    values = list(_flatten(data))
    if len(values) != size:
        return f"expected {size} values; found {len(values)}"
    limits = np.iinfo(dtype)
    if not all(type(value) is int and limits.min <= value <= limits.max for value in values):
        return f"expected integers of {tensor.datatype}"
    return np.array(values, dtype).reshape(tensor.shape)


def _flatten(data: list[Any]) -> Iterator[Any]:
    for value in data:
        if isinstance(value, list):
            yield from _flatten(value)
        else:
            yield value


def _check_outputs(exchange: Exchange, model: ServedModel, wanted: list[WantedOutput], inputs: Inputs) -> None:
    axes = model.runtime.artifact.description["outputs"]
    known = _of_text(model, model.runtime.outputs)
    unknown = [output.name for output in wanted if output.name not in known]
    if unknown:
        raise Refused(INVALID, f"{', '.join(unknown)}: no such output; known: {', '.join(known)}")
    batch, length = inputs.input_ids.shape
    sizes = {"batch": batch, "length": length}
    values = sum(prod(sizes.get(axis, axis) for axis in axes[output.name]) for output in wanted)
    most = exchange.limits.values
    if values > most:
        told = f"expected outputs of at most {most:,} values; these have {values:,}: request fewer outputs or rows"
        raise Refused(TOO_LARGE, told, "outputs")


def _of_text(model: ServedModel, outputs: Iterable[str]) -> list[str]:
    """Those that mean something without an image, which no endpoint takes."""
    return [name for name in outputs if not (model.runtime.artifact.reads_images and reads_image(name))]


def _model(exchange: Exchange) -> ServedModel:
    model = exchange.choose(name=exchange.path["model"])
    if exchange.path.get("version", VERSION) != VERSION:
        raise Refused(NO_MODEL, f"model {model.name!r} has only version {VERSION}")
    return model


async def describe(exchange: Exchange, _: None) -> Any:
    """The model's inputs and outputs; −1 is any size."""
    model = _model(exchange)
    axes = model.runtime.artifact.description["outputs"]
    return {
        "name": model.name,
        "versions": [VERSION],
        "platform": f"yizhi_{model.runtime.artifact.target}",
        "inputs": [{"name": name, "datatype": "INT64", "shape": [-1, -1]} for name in TEXT_INPUTS],
        "outputs": [
            {"name": name, "datatype": "FP32", "shape": [axis if isinstance(axis, int) else -1 for axis in axes[name]]}
            for name in _of_text(model, model.runtime.outputs)
        ],
    }


async def model_ready(exchange: Exchange, _: None) -> Any:
    """Whether the model takes requests."""
    model = _model(exchange)
    exchange.refuse_draining()
    return {"name": model.name, "ready": True}


async def server(exchange: Exchange, _: None) -> Any:
    """The server's name, version and extensions."""
    return {"name": "yizhi", "version": __version__, "extensions": ["binary_tensor_data"]}


async def live(exchange: Exchange, _: None) -> Any:
    """Whether the process answers."""
    return {"live": True}


async def ready(exchange: Exchange, _: None) -> Any:
    """Whether requests are taken."""
    exchange.refuse_draining()
    return {"ready": True}


def _of_model(tail: str, **settings: Any) -> list[Endpoint]:
    """The path with and without a version."""
    return [
        Endpoint(f"/v2/models/{{model}}{version}{tail}", OIP, **settings) for version in ("", "/versions/{version}")
    ]


_JSON = dict[str, Any]
ENDPOINTS = (
    Endpoint("/v2", OIP, server, gives=_JSON, summary="The server", computes=False),
    Endpoint("/v2/health/live", OIP, live, gives=_JSON, summary="Whether it answers", computes=False, open=True),
    Endpoint(
        "/v2/health/ready", OIP, ready, gives=_JSON, summary="Whether requests are taken", computes=False, open=True
    ),
    *_of_model("", handle=describe, gives=_JSON, summary="A model's inputs and outputs", computes=False),
    *_of_model(
        "/ready", handle=model_ready, gives=_JSON, summary="Whether a model is ready", computes=False, open=True
    ),
    *_of_model("/infer", handle=infer, body=InferBody, raw=True, gives=_JSON, summary="Token ids to outputs"),
)
