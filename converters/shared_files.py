"""What every artifact holds, whatever its target: the configuration and the tokenizer."""

from yizhi.reading.checkpoint import Checkpoint
from yizhi.release.artifact import ArtifactWriter


def write_config_and_tokenizer(checkpoint: Checkpoint, writer: ArtifactWriter) -> None:
    """`config.json` as transformers reads it, `vocab.txt`, `tokenizer.json` and its config."""
    writer.write_json("config.json", checkpoint.published_config())
    for name, data in checkpoint.text.files(checkpoint.config.max_position_embeddings).items():
        writer.write(name, data)
