"""Artifact in, arrays out; and texts in, answers out."""

from runtimes.base import Inputs, Outputs, Runtime, open_runtime
from runtimes.embeddings import Embedder
from runtimes.fill_mask import FillMask, Prediction
from runtimes.tokenization import Tokenizer

__all__ = ["Embedder", "FillMask", "Inputs", "Outputs", "Prediction", "Runtime", "Tokenizer", "open_runtime"]
