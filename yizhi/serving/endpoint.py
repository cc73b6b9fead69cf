"""What an endpoint is: a path, the body it takes, what it does, and the protocol whose errors it speaks."""

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
    """A request's JSON. Types are taken as they are: "1" is no number. Fields of other servers are passed over."""

    model_config = ConfigDict(strict=True, frozen=True)


@dataclass(frozen=True)
class Protocol:
    """A family of endpoints that other people's clients know.

    refuse: the answer that says no. It need not set `Retry-After`. error: the type of its JSON.
    """

    name: str
    refuse: Callable[[Refused], Response]
    error: Any


@dataclass
class Exchange:
    """One request on its way: what a handler needs, and what the log and the metrics will say of it."""

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
        """The named model, or the one that is asked where none is named. Raises Refused where there is none."""
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
        """The first of those that suit it best; the first of all where no ability is asked for."""
        models = list(self.models.values())
        if ability is None:
            return models[0]
        best = max(models, key=lambda model: model.suits(ability))
        return best if best.suits(ability) else None

    def say_models(self) -> str:
        """Their names and what they can."""
        return ", ".join(f"{model.name} ({', '.join(sorted(model.abilities))})" for model in self.models.values())

    def refuse_draining(self) -> None:
        """Raise Refused once the server is to end."""
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
        """A vector [D] of each text, or [T, H] if `by_token`; pooled as the artifact pools, or by mean.

        dimensions: keep the first so many, and make the norm 1 again if `normalize`.
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
        """The operator of the model's head. Raises Refused for settings that it cannot have."""
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
        """What the planner says of each text, within the limits. values: how many an answer has for each token."""
        if not texts:
            raise Refused(EMPTY, "expected one text or more; found none")
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
    """A body's values, of JSON or of values. Raises Refused, listing what is wrong with each field."""
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

    handle: given the exchange and the body, what is to be sent: a Response, or values for JSON, arrays among them.
    body: the type of the JSON, a Body or several; None for an endpoint that takes none.
    raw: the handler reads the body itself. gives: the type of the answer, for the document.
    computes: whether it takes a model's time, and so one of the places for requests. open: also without a key.
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
        """POST where there is a body."""
        return "POST" if self.body or self.raw else "GET"
