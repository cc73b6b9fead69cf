"""What every artifact holds, whatever its target: the configuration and the tokenizer."""

from yizhi.reading.checkpoint import Checkpoint
from yizhi.reading.tokenizer_files import tokenizer_files
from yizhi.release.artifact import ArtifactWriter


def write_config_and_tokenizer(checkpoint: Checkpoint, writer: ArtifactWriter) -> None:
    """`config.json` as transformers reads it, `vocab.txt`, `tokenizer.json` and its config."""
    writer.write_json("config.json", checkpoint.published_config())
    for name, data in tokenizer_files(checkpoint).items():
        writer.write(name, data)
