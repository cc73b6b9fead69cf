"""Artifact in, arrays out; and texts in, answers out."""

from runtimes.base import Inputs, Outputs, Runtime, open_runtime
from runtimes.classifier import Classifier, LabelScore
from runtimes.embeddings import Embedder
from runtimes.entities import Chunk, TagScheme
from runtimes.fill_mask import FillMask, Prediction
from runtimes.reader import Answer, Reader
from runtimes.tagger import Entity, Tag, Tagger, WordTagger
from runtimes.tokenization import Tokenizer

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
    "Prediction",
    "Reader",
    "Runtime",
    "Tag",
    "TagScheme",
    "Tagger",
    "Tokenizer",
    "WordTagger",
    "open_runtime",
]
