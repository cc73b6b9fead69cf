"""The few files by which sentence-transformers knows how a folder's sentence embeddings are pooled."""

from collections.abc import Mapping

from yizhi.reading.checkpoint import Checkpoint
from yizhi.release.artifact import ArtifactWriter

# Classes by the names that every release of sentence-transformers has known them by.
_MODULES = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
FILES = ("modules.json", "sentence_bert_config.json", "1_Pooling/config.json")
_MODES = {"cls": "pooling_mode_cls_token", "mean": "pooling_mode_mean_tokens", "max": "pooling_mode_max_tokens"}


def write_modules(writer: ArtifactWriter, checkpoint: Checkpoint, model_arguments: Mapping[str, str]) -> None:
    """Write `modules.json` and what it names, so that `SentenceTransformer(folder)` gives `sentence_embedding`.

    It runs the encoder and does the pooling and normalisation itself. model_arguments: what it is to load the
    encoder with. Does nothing where the spec has no pooling.
    """
    spec = checkpoint.spec
    if not spec.pooling:
        return
    names = ["Transformer", "Pooling", *(["Normalize"] if spec.pooling.normalize else [])]
    modules = [
        {"idx": index, "name": str(index), "path": _MODULES[name], "type": f"sentence_transformers.models.{name}"}
        for index, name in enumerate(names)
    ]
    writer.write_json("modules.json", modules)
    # Old releases read `model_args`; newer ones read it as `model_kwargs`.
    arguments = {"model_args": dict(model_arguments)} if model_arguments else {}
    length = {"max_seq_length": checkpoint.text.length(spec.config.longest), "do_lower_case": False}
    writer.write_json("sentence_bert_config.json", {**length, **arguments})
    modes = {key: mode == spec.pooling.mode for mode, key in _MODES.items()}
    writer.write_json("1_Pooling/config.json", {"word_embedding_dimension": spec.config.hidden_size, **modes})
