"""A student has the teacher's numbers in the teacher's layers; what cannot be a student's layer is refused."""

import numpy as np
import pytest

from yizhi.errors import InputError
from yizhi.parity import oracle
from yizhi.reading.checkpoint import Checkpoint
from yizhi.runtimes.tokenization import Tokenizer
from yizhi.training.students import write_student


def make(base, layers, folder):
    folder.mkdir()
    with Checkpoint.open(base) as teacher:
        write_student(teacher, layers, folder)
    return folder


@pytest.mark.parametrize(
    ("variant", "layers"),
    [
        *(("bert", layers) for layers in ([0], [0, 1], [0, 2], [2])),
        *((name, [0, 2]) for name in ("bert-untied", "bert-bf16", "bert-no-prefix", "bert-sharded", "bert-tagger")),
        *((name, [0, 1]) for name in ("albert", "electra-generator", "megatron-bert", "ernie", "nezha", "roformer")),
        *((name, [0, 1]) for name in ("roberta", "modernbert", "xlm-roberta-own-tagger", "bert-classifier")),
    ],
)
def test_the_layers_are_the_teachers(variant, layers, make_checkpoint, tmp_path):
    base = make_checkpoint(variant)
    with Checkpoint.open(base) as teacher, Checkpoint.open(make(base, layers, tmp_path / "student")) as student:
        assert (student.config.num_hidden_layers, student.spec.task) == (len(layers), teacher.spec.task)
        inputs = Tokenizer.of(teacher.text, teacher.config).encode(["我来北京", "hello"]).inputs
        if layers == list(range(len(layers))):  # the first ones: what they give is the same
            wanted = {f"hidden_states.{number}" for number in range(len(layers))}
            expected, found = (oracle.run(one, inputs, wanted) for one in (teacher, student))
            for name in wanted:
                assert np.array_equal(found[name], expected[name]), name
        mine, its = student.spec.blocks[-1][-1].query.weight, teacher.spec.blocks[layers[-1]][-1].query.weight
        assert np.array_equal(student.array(mine), teacher.array(its))
        word = teacher.spec.word_embeddings.weight
        assert np.array_equal(student.array(word), teacher.array(word))


@pytest.mark.parametrize(
    ("variant", "layers", "says"),
    [
        ("bert", [], "expected 1 … 2 of the teacher's 3 layers; found 0"),
        ("bert", [0, 1, 2], "expected 1 … 2 of the teacher's 3 layers; found 3"),
        ("bert", [1, 0], "expected rising numbers from 0 to 2; found 1, 0"),
        ("bert", [1, 1], "expected rising numbers"),
        ("bert", [1, 3], "expected rising numbers from 0 to 2; found 1, 3"),
        ("modernbert", [1, 2], "layer 1 of the teacher cannot be layer 0: a layer there computes otherwise"),
        ("albert-groups", [0, 2, 3], "layer 2 of the teacher cannot be layer 1: the layer there is shared"),
    ],
)
def test_what_cannot_be_a_student(variant, layers, says, make_checkpoint, tmp_path):
    with pytest.raises(InputError, match=says):
        make(make_checkpoint(variant), layers, tmp_path / "student")
    assert not any((tmp_path / "student").iterdir())
