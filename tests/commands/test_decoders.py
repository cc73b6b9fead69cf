"""What commands on texts say of a causal language model: one line, and exit code 2."""

import pytest

from tests.artifacts import export_artifact
from tests.checkpoints import write_variant
from yizhi.cli import main
from yizhi.reading.checkpoint import Checkpoint


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    folder = tmp_path_factory.mktemp("decoder")
    with Checkpoint.open(write_variant(folder / "source", "qwen3")) as checkpoint:
        return export_artifact(checkpoint, "onnx", folder / "onnx")


def refuse(arguments: list[str], capsys) -> str:
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert not printed.out
    (fault,) = (line for line in printed.err.splitlines() if line.startswith("  - "))
    return fault


@pytest.mark.parametrize(
    ("command", "purpose"), [("fill-mask", "fill masks"), ("classify", "classify texts"), ("tag", "tag words")]
)
def test_a_command_of_another_head_names_the_one_that_fits(artifact, tmp_path, capsys, command, purpose):
    said = (
        f"cannot {purpose}: the checkpoint is a causal language model: it gives logits of each next token; use `yizhi"
    )
    assert said in refuse([command, str(artifact), "北京是[MASK]国的首都。"], capsys)
    (tmp_path / "texts.txt").write_text("北京\n首都\n")
    output = tmp_path / "answers.jsonl"
    assert said in refuse([command, str(artifact), str(tmp_path / "texts.txt"), "--output", str(output)], capsys)
    assert list(tmp_path.iterdir()) == [tmp_path / "texts.txt"]


@pytest.mark.parametrize("engine", [[], ["--engine", "ray"]])
def test_no_server_generates_text(artifact, capsys, engine):
    """Nor would a mean of its hidden states be a vector that somebody trained."""
    said = refuse(["serve", str(artifact), *engine, "--port", "0"], capsys)
    assert "is a causal language model, and no endpoint generates text: `yizhi export` with `pooling` last" in said


def test_vectors_of_a_decoder_are_served(tmp_path):
    from yizhi.model.spec import Pooling
    from yizhi.serving.server import find_artifacts

    source = write_variant(tmp_path / "source", "qwen3")
    with Checkpoint.open(source, pooling=Pooling("last", True)) as checkpoint:
        folder = export_artifact(checkpoint, "onnx", tmp_path / "onnx")
    assert find_artifacts([str(folder)]) == {"onnx": folder}
