"""Labels, entities and answers do not depend on the runtime that computed the logits; every task has a use."""

import pytest

import yizhi
from tests.artifacts import EVERY_TARGET
from tests.checkpoints import VARIANTS
from yizhi.cli import build_parser
from yizhi.converters.targets import TARGETS
from yizhi.model.architectures import CLASS_SUFFIXES
from yizhi.model.label_heads import LABEL_CLASS_SUFFIXES
from yizhi.runtimes import Classifier, Reader, Tagger, WordTagger
from yizhi.runtimes.tasks import REPLACED, USES

TEXTS = ["我住在北京的酒店。", "Hello  worlds 的", "花月春风" * 30]
RUNS = {
    "bert-classifier": (Classifier, {"long": "truncate"}, TEXTS),
    "albert-tagger": (Tagger, {}, TEXTS),
    "electra-discriminator": (WordTagger, {}, TEXTS),
    "electra-reader": (Reader, {"top_k": 5, "no_answer": 0.0}, [("首都？", text) for text in TEXTS]),
}


@pytest.mark.parametrize("variant", RUNS)
@pytest.mark.parametrize("target", EVERY_TARGET)
def test_every_runtime_gives_the_same_answers(open_variant, target, variant):
    operator, settings, given = RUNS[variant]
    config = {"config": {**VARIANTS[variant].get("config", {}), "num_hidden_layers": 1}}
    runtime = open_variant(variant, target, **config)
    found = operator(runtime, **settings).many(given)
    if TARGETS[target].precision == "int8":  # other logits, but the same in any batch, bit for bit
        assert found == [operator(runtime, **settings)(text) for text in given]
        return
    expected = operator(open_variant(variant, **config), **settings).many(given)
    for answers, references in zip(found, expected, strict=True):
        assert len(answers) == len(references) > 0
        for answer, reference in zip(answers, references, strict=True):
            assert {**vars(answer), "score": 0} == {**vars(reference), "score": 0}
            assert answer.score == pytest.approx(reference.score, rel=1e-4)


def test_every_task_that_gives_labels_is_run():
    assert {VARIANTS[variant]["task"] for variant in RUNS} == {*LABEL_CLASS_SUFFIXES, REPLACED}


@pytest.mark.parametrize("task", CLASS_SUFFIXES)
def test_every_task_has_a_command_and_a_class(task):
    use = USES[task]
    assert hasattr(yizhi, use.class_name)
    with pytest.raises(SystemExit) as leave:
        build_parser().parse_args([use.command, "--help"])
    assert leave.value.code == 0
