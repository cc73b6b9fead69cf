"""Hugging Face's inference API: `huggingface_hub.InferenceClient` with this server's address as its model.

The model's task decides the answers of `POST /` and `POST /models/{model}`, as
https://huggingface.co/docs/inference-providers/tasks describes. `/pipeline/{task}` asks a model for another task.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Literal

from pydantic import TypeAdapter

from yizhi.serving.endpoint import Body, Endpoint, Exchange, parse
from yizhi.serving.model import EMBED, FILL, PREDICT, READ, TAG, ServedModel
from yizhi.serving.protocols import own, tei
from yizhi.serving.protocols.tei import TEI
from yizhi.serving.refusals import INVALID, NO_ROUTE, Refused

TASKS = {
    "feature-extraction": EMBED,
    "fill-mask": FILL,
    "question-answering": READ,
    "text-classification": PREDICT,
    "token-classification": TAG,
}


class PipelineBody(Body):
    """`parameters` are the task's. The parameters of `feature-extraction` stand next to `inputs`."""

    inputs: Any
    parameters: dict[str, Any] | None = None
    truncate: bool | None = None
    truncation_direction: Literal["Left", "Right", "left", "right"] = "Right"
    normalize: bool = True
    prompt_name: str | None = None


async def run(exchange: Exchange, body: PipelineBody) -> Any:
    """The answer for the task of the path, or for the model's own task."""
    model = exchange.choose(name=exchange.path.get("model"))
    task = exchange.path.get("task")
    if task is not None and task not in TASKS:
        raise Refused(NO_ROUTE, f"no task {task!r} here; known: {', '.join(TASKS)}")
    ability = model.head if task is None else TASKS[task]
    exchange.choose(ability, model.name)
    return await _RUN[ability](exchange, model, body)


async def _embed(exchange: Exchange, model: ServedModel, body: PipelineBody) -> Any:
    return await tei.embed(exchange, parse(_EMBED, {**body.model_dump(exclude={"parameters"}), "model": model.name}))


async def _fill(exchange: Exchange, model: ServedModel, body: PipelineBody) -> Any:
    asked = parse(_FILL, {**(body.parameters or {}), "inputs": body.inputs, "model": model.name})
    found = await own.fill_mask(exchange, asked)
    return _masks(found) if isinstance(asked.inputs, str) else [_masks(masks) for masks in found]


def _masks(found: list[list[dict[str, Any]]]) -> list[Any]:
    """As transformers' pipeline: the list of a single mask stands alone."""
    shown = [[_prediction(one) for one in mask] for mask in found]
    return shown[0] if len(shown) == 1 else shown


def _prediction(found: dict[str, Any]) -> dict[str, Any]:
    return {
        "score": found["score"],
        "token": found["token_id"],
        "token_str": found["token"],
        "sequence": found["sentence"],
    }


async def _predict(exchange: Exchange, model: ServedModel, body: PipelineBody) -> Any:
    found = await tei.predict(exchange, parse(_PREDICT, {"inputs": body.inputs, "model": model.name}))
    labels = [found] if isinstance(found[0], dict) else found
    most = parse(_TOP, body.parameters or {}).top_k
    return [some[:most] for some in labels]


async def _tag(exchange: Exchange, model: ServedModel, body: PipelineBody) -> Any:
    found = await own.tag(exchange, parse(_TAG, {"inputs": body.inputs, "model": model.name}))
    single = isinstance(body.inputs, str)
    shown = [[_entity(one) for one in entities] for entities in ([found] if single else found)]
    return shown[0] if single else shown


def _entity(found: dict[str, Any]) -> dict[str, Any]:
    return {
        "entity_group": found["label"],
        "score": found["score"],
        "word": found["text"],
        "start": found["start"],
        "end": found["end"],
    }


async def _read(exchange: Exchange, model: ServedModel, body: PipelineBody) -> Any:
    if not isinstance(body.inputs, dict):
        raise Refused(INVALID, "inputs: expected a question and a context", "inputs")
    given = {**(body.parameters or {}), **body.inputs}
    names = {"max_answer_len": "max_answer_tokens", "handle_impossible_answer": "no_answer"}
    asked = parse(_READ, {**{names.get(name, name): value for name, value in given.items()}, "model": model.name})
    found = await own.answer(exchange, asked)
    shown = [{"answer": one["text"], "score": one["score"], "start": one["start"], "end": one["end"]} for one in found]
    return shown if asked.top_k > 1 else shown[0]


class _Top(Body):
    """The number of labels; all if None."""

    top_k: own.TopK | None = None


_TOP = TypeAdapter(_Top)
_EMBED = TypeAdapter(tei.EmbedBody)
_FILL = TypeAdapter(own.FillMaskBody)
_PREDICT = TypeAdapter(tei.PredictBody)
_TAG = TypeAdapter(own.TagBody)
_READ = TypeAdapter(own.AnswerBody)
_RUN: dict[str, Callable[[Exchange, ServedModel, PipelineBody], Awaitable[Any]]] = {
    EMBED: _embed,
    FILL: _fill,
    PREDICT: _predict,
    TAG: _tag,
    READ: _read,
}

ENDPOINTS = tuple(
    Endpoint(path, TEI, run, PipelineBody, list[Any] | dict[str, Any], "The answer of a model's task")
    for path in ("/", "/models/{model}", "/models/{model}/pipeline/{task}")
)
