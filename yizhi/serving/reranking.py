"""Relevance of documents to a query: the library's `Reranker`, through a server's batches."""

from collections.abc import Sequence

from yizhi.errors import InputError
from yizhi.runtimes.reranker import best_first
from yizhi.serving.endpoint import Exchange
from yizhi.serving.model import Cut, ServedModel
from yizhi.serving.refusals import INVALID, Refused


async def rank(
    exchange: Exchange,
    model: ServedModel,
    query: str,
    documents: Sequence[str],
    *,
    cut: Cut = None,
    raw: bool = False,
) -> list[tuple[int, float]]:
    """Index and score of each document, best first. Equal scores keep the order of the documents.

    raw: the score is the logit, not its sigmoid. Raises Refused for a model of single texts, and as `answer` does.
    """
    try:
        planner = model.rerank_planner(cut, raw)
    except InputError as error:
        raise Refused(INVALID, model.tell(error)) from None
    answers = await exchange.answer(model, planner, [(query, text) for text in documents])
    scores = [found.score for found in answers.results]
    return [(index, scores[index]) for index in best_first(scores)]
