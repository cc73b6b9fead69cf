"""An image beside the text: which arrays are taken, and what every fault of them is called."""

import numpy as np
import pytest

from tests.artifacts import EVERY_TARGET, slow
from yizhi.converters.targets import TARGETS
from yizhi.errors import InputError
from yizhi.runtimes import open_runtime
from yizhi.runtimes.base import Inputs

IDS = np.array([[2, 5, 6, 3], [2, 7, 3, 0]])
MASK = np.array([[1, 1, 1, 1], [1, 1, 1, 0]])
IMAGE_OUTPUTS = ["image_last_hidden_state", "image_pooler_output", "region_logits", "match_logits"]


def image(batch=2, regions=3, width=24, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "image_features": rng.normal(size=(batch, regions, width)).astype(np.float32),
        "image_boxes": rng.random((batch, regions, 5), np.float32),
        "image_mask": np.ones((batch, regions), np.int64),
    }


def faults_of(**arrays):
    with pytest.raises(InputError) as caught:
        Inputs.of(IDS, MASK, **arrays)
    return caught.value.faults


def test_every_fault_of_an_image_is_listed_at_once():
    given = image()
    given["image_features"][0, 1, 2:4] = np.nan
    given["image_boxes"] = given["image_boxes"][:1, :, :4]
    given["image_mask"] = np.array([[1, 2, 1], [1, 1, 1]])
    assert faults_of(**given) == [
        "image_features: 2 of 144 values are NaN or Inf in float32",
        "image_boxes: expected [batch, regions, 5]; found [1, 3, 4]",
        "image_mask: expected 0 or 1; found 2",
    ]


def test_rows_of_different_lengths_are_named_together():
    with pytest.raises(InputError) as caught:
        Inputs.of([[2, 5], [3]], image_features=image()["image_features"], image_boxes=[[[0] * 5], [[0] * 4]])
    assert caught.value.faults == [
        "input_ids: expected rows of one length: pad the shorter ones",
        "image_boxes: expected rows of one length: pad the shorter ones",
    ]


def test_arrays_that_do_not_belong_together():
    given = image()
    assert faults_of(**{**given, "image_features": given["image_features"][:1]}) == [
        "image_features: expected 2 rows, as many as input_ids has; found 1"
    ]
    assert faults_of(**{**given, "image_mask": np.ones((2, 4), int)}) == [
        "image_mask: expected 3 regions, as image_features has; found 4"
    ]
    assert faults_of(image_mask=given["image_mask"]) == [
        "image_features: missing, with image_mask",
        "image_boxes: missing, with image_mask",
    ]
    assert faults_of(**{**given, "image_mask": given["image_mask"].astype(np.float32)}) == [
        "image_mask: expected integers; found float32"
    ]
    assert faults_of(**{**given, "image_boxes": given["image_boxes"].astype(str)})[0].startswith(
        "image_boxes: expected numbers; found <U"
    )
    assert faults_of(**{**given, "image_features": np.full((2, 3, 24), 1e300)}) == [
        "image_features: 144 of 144 values are NaN or Inf in float32"
    ]


def test_boxes_in_pixels_are_refused():
    """Their answer would look like any other. Padding may have any box; rounding may reach over an edge."""
    given = image()
    given["image_boxes"][0, 1] = 10, 20, 300, 400, 0.5
    assert faults_of(**given) == [
        "image_boxes: expected shares of the image's width, height and area, 0 … 1; found 10, 20, 300, 400, 0.5 at "
        "row 0, region 1"
    ]
    given["image_boxes"][1] = -1
    assert faults_of(**given)[0].endswith("at row 0, region 1, and 3 more regions")
    given["image_mask"] = np.array([[1, 0, 0], [0, 0, 0]])
    given["image_boxes"][0, 0] = -0.001, 0, 1.001, 1, 1
    Inputs.of(IDS, MASK, **given)


def test_padding_before_an_image_is_refused():
    """The image's pooled vector is made of region 0."""
    given = image()
    given["image_mask"] = np.array([[1, 0, 1], [0, 1, 1]])
    (fault,) = faults_of(**given)
    assert "expected a region before padding" in fault
    assert fault.endswith("found padding first in rows 1")


@pytest.mark.parametrize("target", EVERY_TARGET)
def test_text_alone_is_an_image_without_regions(open_variant, target):
    runtime = open_variant("interbert", target)
    alone = runtime.run({"input_ids": IDS, "attention_mask": MASK})
    assert alone["image_last_hidden_state"].shape == (2, 1, 32)
    for found in (
        runtime.run({"input_ids": IDS, "attention_mask": MASK, **image(regions=0)}),
        runtime.run({"input_ids": IDS, "attention_mask": MASK, **image(), "image_mask": np.zeros((2, 3), int)}),
    ):
        assert all(np.isfinite(array).all() for array in found.values())
        for name in ("last_hidden_state", "logits", "pooler_output"):
            np.testing.assert_allclose(
                found[name][MASK == 1] if found[name].ndim == 3 else found[name],
                alone[name][MASK == 1] if alone[name].ndim == 3 else alone[name],
                rtol=0,
                atol=0.1 if TARGETS[target].precision == "int8" else 1e-5,
            )


@pytest.mark.parametrize("target", EVERY_TARGET)
def test_chosen_positions_have_the_logits_of_the_whole_pass(open_variant, target):
    runtime = open_variant("interbert", target)
    inputs = {"input_ids": IDS, "attention_mask": MASK, **image()}
    positions = np.array([[1, 2], [0, 0], [0, 3]])
    whole = runtime.run(inputs, ["logits"])["logits"]
    np.testing.assert_allclose(runtime.logits_at(inputs, positions), whole[tuple(positions.T)], rtol=0, atol=1e-4)
    assert not np.allclose(whole[1, 2], runtime.run({**inputs, **image(seed=1)}, ["logits"])["logits"][1, 2])


@pytest.mark.parametrize("target", EVERY_TARGET)
@pytest.mark.parametrize("output", IMAGE_OUTPUTS)
def test_each_output_is_the_same_alone(open_variant, target, output):
    runtime = open_variant("interbert", target)
    inputs = {"input_ids": IDS, "attention_mask": MASK, **image()}
    np.testing.assert_allclose(runtime.run(inputs, [output])[output], runtime.run(inputs)[output], rtol=1e-5, atol=1e-6)


def test_regions_of_another_width(open_variant):
    with pytest.raises(InputError, match="image_features: expected 24 numbers a region; found 7"):
        open_variant("interbert", "pytorch").run({"input_ids": IDS, **image(width=7)})


def test_a_model_of_texts_refuses_an_image(open_variant):
    with pytest.raises(InputError, match="image_features: expected none, because this model reads text alone"):
        open_variant("bert", "pytorch").run({"input_ids": IDS, **image()})


@pytest.mark.parametrize("target", ["onnx-int8", "openvino", "openvino-int8", "litert", "litert-int8"])
def test_a_row_has_the_same_bits_beside_other_rows(open_variant, target):
    """Padding after its text, which the shared layers see behind its regions, moves none of them."""
    runtime = open_variant("interbert", target)
    rng = np.random.default_rng(5)
    lengths, batch = (5, 21, 40), 3
    ids = rng.integers(5, 100, (batch, max(lengths)))
    mask = (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(int)
    given = {"input_ids": ids, "attention_mask": mask, **image(batch, 7)}
    given["image_mask"][1, 4:] = 0
    outputs = ["last_hidden_state", "pooler_output", *IMAGE_OUTPUTS]
    together = runtime.run(given, outputs)
    for row, length in enumerate(lengths):
        cut = {name: array[row : row + 1] for name, array in given.items()}
        cut |= {name: cut[name][:, :length] for name in ("input_ids", "attention_mask")}
        alone, regions = runtime.run(cut, outputs), given["image_mask"][row] == 1
        for name in ("pooler_output", "image_pooler_output", "match_logits"):
            np.testing.assert_array_equal(alone[name][0], together[name][row], err_msg=name)
        for name in ("image_last_hidden_state", "region_logits"):
            np.testing.assert_array_equal(alone[name][0, regions], together[name][row, regions], err_msg=name)
        np.testing.assert_array_equal(alone["last_hidden_state"][0], together["last_hidden_state"][row, :length])


@pytest.mark.parametrize("target", ["pytorch", "onnx", "openvino", slow("flax")])
def test_what_a_layer_shows_are_its_tokens(open_variant, target):
    """Shared layers compute regions, too: of the same text beside another number of them, as many rows."""
    runtime = open_variant("interbert", target)
    for regions in (1, 6):
        found = runtime.look_inside(Inputs.of(IDS, MASK, **image(regions=regions)), 1)
        assert {array.shape[:2] for array in found.values()} == {IDS.shape}


@pytest.mark.parametrize("target", ["pytorch", slow("flax")])
@pytest.mark.parametrize("math", ["bf16", "fp16"])
def test_in_16_bits(open_variant, target, math):
    """Features are given in float32, whatever the weights are."""
    exact = open_variant("interbert", target)
    inputs = {"input_ids": IDS, "attention_mask": MASK, **image()}
    with open_runtime(exact.artifact.folder, math=math) as runtime:
        found, expected = runtime.run(inputs, IMAGE_OUTPUTS), exact.run(inputs, IMAGE_OUTPUTS)
    for name in IMAGE_OUTPUTS:
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=0.1)
