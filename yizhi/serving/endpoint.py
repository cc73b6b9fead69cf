"""An endpoint: a path, its body, its handler, and the protocol that formats its errors."""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from starlette.responses import Response

from yizhi.choices import TextPooling
from yizhi.errors import InputError
from yizhi.model.spec import SHORTEST_NORM
from yizhi.runtimes.batching import Computer
from yizhi.serving.limits import Limits
from yizhi.serving.model import Answers, Cut, Planner, ServedModel
from yizhi.serving.refusals import DRAINING, EMPTY, INVALID, MALFORMED, NO_MODEL, TOO_LARGE, Refused

T = TypeVar("T")


class Body(BaseModel):
    """A request's JSON. Types are strict: "1" is not a number. Fields of other servers are ignored."""

    model_config = ConfigDict(strict=True, frozen=True)


@dataclass(frozen=True)
class Protocol:
    """A family of endpoints that existing clients know.

    refuse: makes the error response. It need not set `Retry-After`. error: the type of its JSON.
    """

    name: str
    refuse: Callable[[Refused], Response]
    error: Any


@dataclass
class Exchange:
    """One request in progress: the handler's context, and the facts for the log and the metrics."""

    models: Mapping[str, ServedModel]
    limits: Limits
    id: str
    headers: Mapping[str, str] = field(default_factory=dict)
    path: Mapping[str, str] = field(default_factory=dict)
    content: bytes = b""
    draining: bool = False
    begin: float = field(default_factory=time.perf_counter)
    model: ServedModel | None = None
    texts: int = 0
    tokens: int = 0

    def choose(self, ability: str | None = None, name: str | None = None) -> ServedModel:
        """The named model, or the default model if none is named. Raises Refused if there is no such model."""
        if name is None:
            found = self.default_for(ability)
            if found is None:
                some_can = any(ability in model.abilities for model in self.models.values())
                why = f"was made to {ability}: name one in the request" if some_can else f"can {ability}"
                raise Refused(NO_MODEL, f"no model served here {why}; served: {self.say_models()}")
        elif name not in self.models:
            raise Refused(NO_MODEL, f"no model {name!r} is served here; served: {self.say_models()}", "model")
        else:
            found = self.models[name]
            if ability not in (None, *found.abilities):
                raise Refused(NO_MODEL, f"model {name!r} cannot {ability}; served: {self.say_models()}", "model")
        self.model = found
        return found

    def default_for(self, ability: str | None) -> ServedModel | None:
        """The first model of the best fit for the ability. Without an ability, the first model."""
        models = list(self.models.values())
        if ability is None:
            return models[0]
        best = max(models, key=lambda model: model.suits(ability))
        return best if best.suits(ability) else None

    def say_models(self) -> str:
        """The models' names and abilities."""
        return ", ".join(f"{model.name} ({', '.join(sorted(model.abilities))})" for model in self.models.values())

    def refuse_draining(self) -> None:
        """Raise Refused once the server is shutting down."""
        if self.draining:
            raise Refused(DRAINING, "the server is shutting down")

    async def embed(
        self,
        model: ServedModel,
        texts: Sequence[str],
        *,
        normalize: bool,
        cut: Cut = None,
        by_token: bool = False,
        prompt: str | None = None,
        dimensions: int | None = None,
    ) -> Answers:
        """A vector [D] of each text, or [T, H] if `by_token`. The artifact's pooling applies, or else the mean.

        dimensions: keep the first `dimensions` numbers, and make the norm 1 again if `normalize`.
        """
        before = self._prompt(model, prompt)
        pooling: TextPooling | None = "none" if by_token else None  # None: as the artifact pools
        try:
            planner = model.embed_planner(pooling, normalize, cut)
        except InputError as error:  # a Dense module's vectors that the artifact normalizes itself
            raise Refused(INVALID, model.tell(error), "normalize") from None
        size = planner.size
        if dimensions is not None and dimensions > size:
            raise Refused(INVALID, f"dimensions: expected 1 … {size}; found {dimensions}", "dimensions")
        given = [before + text for text in texts]
        computer = model.embedder(pooling, normalize)
        found = await self.answer(model, planner, given, computer, values=size if by_token else 1)
        if dimensions is None:
            return found
        return replace(found, results=[shorten(vector, dimensions, normalize) for vector in found.results])

    async def predict(self, model: ServedModel, texts: Sequence[Any], *, cut: Cut = None, **settings: Any) -> Answers:
        """The labels of each text or pair, best first."""
        return await self.answer(model, model.predict_planner(cut, **settings), texts)

    def plan(self, model: ServedModel, **settings: Any) -> Planner:
        """The operator of the model's head. Raises Refused for invalid settings."""
        try:
            return model.planner(**settings)
        except InputError as error:
            raise Refused(INVALID, model.tell(error)) from None

    async def answer(
        self,
        model: ServedModel,
        planner: Planner,
        texts: Sequence[Any],
        computer: Computer | None = None,
        *,
        values: int = 1,
    ) -> Answers:
        """The planner's answer for each text, within the limits.

        values: how many numbers an answer has for each token.
        """
        if not texts:
            raise Refused(EMPTY, "expected one or more texts; found none")
        if len(texts) > self.limits.texts:
            raise Refused(TOO_LARGE, f"batch size {len(texts)} > maximum allowed batch size {self.limits.texts}")
        self.texts = len(texts)
        most = min(self.limits.tokens, self.limits.values // values)
        answers = await model.answer(planner, texts, computer, most)
        self.tokens = answers.tokens
        return answers

    def _prompt(self, model: ServedModel, name: str | None) -> str:
        if name is None:
            return ""
        if name not in model.prompts:
            known = ", ".join(sorted(model.prompts)) or "none"
            raise Refused(INVALID, f"no prompt {name!r}; known: {known}", "prompt_name")
        return model.prompts[name]


def shorten(vector: NDArray[np.float32], dimensions: int, normalize: bool) -> NDArray[np.float32]:
    """The first dimensions of a vector [H], of norm 1 if `normalize`."""
    short = vector[:dimensions].copy()
    if normalize:
        short /= np.maximum(np.linalg.norm(short), SHORTEST_NORM)
    return short


def parse(body: TypeAdapter[T], content: bytes | dict[str, Any]) -> T:
    """A body's values, from JSON or from values. Raises Refused, listing the faults of each field."""
    try:
        return body.validate_json(content) if isinstance(content, bytes) else body.validate_python(content)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False, include_input=False)
        kind = MALFORMED if any(fault["type"] == "json_invalid" for fault in faults) else INVALID
        where = [".".join(str(part) for part in fault["loc"]) for fault in faults]
        told = [f"{place or 'the body'}: {fault['msg']}" for place, fault in zip(where, faults, strict=True)]
        raise Refused(kind, "; ".join(told), where[0].partition(".")[0] or None) from None


Handler = Callable[[Exchange, Any], Awaitable[Any]]


@dataclass(frozen=True)
class Endpoint:
    """One path and method.

    handle: from the exchange and the body to a Response, or to values for JSON, which may hold arrays.
    body: the type of the JSON, a Body or several; None for an endpoint without a body.
    raw: the handler reads the body itself. gives: the type of the answer, for the OpenAPI document.
    computes: whether it uses a model, and counts against the limit of requests. open: needs no key.
    """

    path: str
    protocol: Protocol
    handle: Handler
    body: Any = None
    gives: Any = None
    summary: str = ""
    computes: bool = True
    open: bool = False
    raw: bool = False

    @property
    def method(self) -> str:
        """POST if there is a body, else GET."""
        return "POST" if self.body or self.raw else "GET"
