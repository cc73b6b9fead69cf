"""How relevant each of some documents is to a query, by a classifier of pairs."""

from collections.abc import Sequence

import numpy as np

from yizhi.runtimes.scores import sigmoid
from yizhi.serving.endpoint import Exchange
from yizhi.serving.model import Cut, ServedModel


async def rank(
    exchange: Exchange,
    model: ServedModel,
    query: str,
    documents: Sequence[str],
    *,
    cut: Cut = None,
    raw: bool = False,
) -> list[tuple[int, float]]:
    """Index and score of each document, best first; equals in the order they came in.

    The score is the sigmoid of the logit of a model's one label, or of the second's less the first's: its probability.
    raw: the logit itself.
    """
    answers = await exchange.predict(model, [(query, text) for text in documents], cut=cut, raw=True)
    logits = np.array(
        [[{one.label: one.score for one in found}[label] for label in model.labels] for found in answers.results]
    )
    relevance = logits[:, -1] - (logits[:, 0] if len(model.labels) > 1 else 0)
    scores = relevance if raw else sigmoid(relevance)
    return [(int(index), float(scores[index])) for index in np.argsort(-scores, kind="stable")]
