"""Open artifacts and run them: token ids to arrays, and texts to answers."""

from yizhi.runtimes.base import Inputs, Outputs, Runtime, open_runtime
from yizhi.runtimes.classifier import Classifier, LabelScore
from yizhi.runtimes.embeddings import Embedder
from yizhi.runtimes.entities import Chunk, TagScheme
from yizhi.runtimes.fill_mask import FillMask, Prediction
from yizhi.runtimes.generation import generate
from yizhi.runtimes.past import Past
from yizhi.runtimes.reader import Answer, Reader
from yizhi.runtimes.reranker import Ranked, Ranker, Relevance, Reranker
from yizhi.runtimes.retrieval import (
    RetrievalEmbedder,
    SparseVector,
    TextVectors,
    score_dense,
    score_multi_vector,
    score_sparse,
)
from yizhi.runtimes.tagger import Entity, Tag, Tagger, WordTagger
from yizhi.runtimes.tokenization import Tokenizer

__all__ = [
    "Answer",
    "Chunk",
    "Classifier",
    "Embedder",
    "Entity",
    "FillMask",
    "Inputs",
    "LabelScore",
    "Outputs",
    "Past",
    "Prediction",
    "Ranked",
    "Ranker",
    "Reader",
    "Relevance",
    "Reranker",
    "RetrievalEmbedder",
    "Runtime",
    "SparseVector",
    "Tag",
    "TagScheme",
    "Tagger",
    "TextVectors",
    "Tokenizer",
    "WordTagger",
    "generate",
    "open_runtime",
    "score_dense",
    "score_multi_vector",
    "score_sparse",
]
