"""The oracle against an implementation that is not ours: transformers' PyTorch classes in float64."""

from functools import partial

import numpy as np
import pytest

from tests.checkpoints import ADAPTER_VARIANTS, VARIANTS, write_variant
from yizhi.model.label_heads import LABEL_CLASS_SUFFIXES
from yizhi.parity import oracle
from yizhi.parity.cases import make_cases
from yizhi.reading.checkpoint import Checkpoint

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from transformers.models.deprecated.nezha.modeling_nezha import (  # noqa: E402
    NezhaRelativePositionsEncoding,
)
from transformers.models.modernbert.modeling_modernbert import ModernBertRotaryEmbedding  # noqa: E402 (may be missing)
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm, Qwen2RotaryEmbedding  # noqa: E402
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm, Qwen3RotaryEmbedding  # noqa: E402
from transformers.models.roformer.modeling_roformer import (  # noqa: E402
    RoFormerSinusoidalPositionalEmbedding,
)


def logits_of(output):
    """The logits as we give them: transformers keeps the two of question answering apart."""
    if "logits" in output:
        return output.logits.numpy()
    return np.stack([output.start_logits.numpy(), output.end_logits.numpy()], axis=-1)


# transformers has no InterBERT: test_interbert.py joins its layers.
@pytest.mark.parametrize("variant", [name for name in VARIANTS if not name.startswith("interbert")])
def test_agrees_with_transformers_in_float64(variant, tmp_path):
    folder = write_variant(tmp_path, variant)
    checkpoint = Checkpoint.open(folder)
    class_name = checkpoint.published_config()["architectures"][0]
    # transformers writes no old names, so it reads the checkpoint through our PyTorch names.
    model = getattr(transformers, class_name)(
        transformers.AutoConfig.from_pretrained(
            folder, attn_implementation=attention_of(checkpoint), torch_dtype="float64"
        )
    )
    state = {parameter.name: checkpoint.array(parameter.name) for parameter in checkpoint.parameters()}
    if checkpoint.spec.rotary_bases or checkpoint.spec.farthest:
        turn_exactly(model)
    if checkpoint.spec.task == "features":
        state = {name.partition(".")[2]: array for name, array in state.items()}
    apart = checkpoint.spec.head and not checkpoint.spec.head_reads_pooler
    state = {name: array for name, array in state.items() if not (apart and ".pooler." in name)}
    report = model.load_state_dict({name: torch.tensor(array) for name, array in state.items()}, strict=False)
    assert not report.unexpected_keys
    if checkpoint.spec.task in LABEL_CLASS_SUFFIXES:
        assert {name.rpartition(".encoder.")[2] for name in report.missing_keys} <= {"embed_positions.weight"}
    model.tie_weights()
    assert_same_outputs(checkpoint, model.double().eval())


@pytest.mark.parametrize("variant", ADAPTER_VARIANTS)
def test_agrees_with_the_adapters_library_in_float64(variant, tmp_path):
    adapters = pytest.importorskip("adapters")
    folder = write_variant(tmp_path, variant)
    checkpoint = Checkpoint.open(folder)
    config = transformers.AutoConfig.from_pretrained(folder, attn_implementation="eager", torch_dtype="float64")
    ((name, key),) = config.adapters["adapters"].items()
    bottleneck = adapters.BnConfig.from_dict(config.adapters["config_map"][key])
    del config.adapters
    model = getattr(transformers, checkpoint.published_config()["architectures"][0])(config)
    adapters.init(model)
    model.add_adapter(name, config=bottleneck)
    model.set_active_adapters(name)
    used = model.state_dict().keys()
    state = {parameter.name: checkpoint.array(parameter.name) for parameter in checkpoint.parameters()}
    state = {name: torch.tensor(array) for name, array in state.items() if name in used or ".pooler." not in name}
    report = model.load_state_dict(state, strict=False)
    assert not report.unexpected_keys
    assert not [key for key in report.missing_keys if ".adapters." in key and ".adapter_down.0." not in key]
    model.tie_weights()
    assert_same_outputs(checkpoint, model.double().eval())


def attention_of(checkpoint):
    """The eager attention of ModernBERT and Qwen takes its softmax in float32."""
    return "sdpa" if checkpoint.config.model_type in ("modernbert", "qwen2", "qwen3") else "eager"


def turn_exactly(model):
    """Give transformers' model in float64 what it has in float32: sines and cosines of positions, and RMSNorm."""
    for module in model.modules():
        if isinstance(module, RoFormerSinusoidalPositionalEmbedding):
            length, d = module.weight.shape
            angles = np.arange(length)[:, None] / 10_000 ** (np.arange(0, d, 2) / d)
            module.weight = torch.nn.Parameter(torch.from_numpy(np.hstack([np.sin(angles), np.cos(angles)])))
        elif isinstance(module, ModernBertRotaryEmbedding | Qwen2RotaryEmbedding | Qwen3RotaryEmbedding):
            module.forward = partial(exact_angles, module.config)
        elif isinstance(module, Qwen2RMSNorm | Qwen3RMSNorm):  # theirs computes in float32
            module.forward = partial(
                torch.rms_norm, normalized_shape=module.weight.shape, weight=module.weight, eps=module.variance_epsilon
            )
        elif isinstance(module, NezhaRelativePositionsEncoding):
            rough, farthest = module.positions_encoding, model.config.max_relative_position
            places, d = torch.arange(len(rough)), rough.shape[-1]
            apart = (places - places[:, None]).clamp(-farthest, farthest) + farthest
            angles = apart[..., None] / 10_000 ** (torch.arange(0, d, 2, dtype=torch.float64) / d)
            module.positions_encoding = torch.stack([angles.sin(), angles.cos()], -1).flatten(2)
            torch.testing.assert_close(module.positions_encoding.float(), rough)


def exact_angles(config, x, position_ids):
    d = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    angles = position_ids[..., None] / config.rope_theta ** (torch.arange(0, d, 2, dtype=torch.float64) / d)
    both = torch.cat([angles, angles], -1)
    return both.cos(), both.sin()


def assert_same_outputs(checkpoint, model):
    final_norm = checkpoint.config.model_type == "modernbert" and model.get_submodule(
        "final_norm" if checkpoint.spec.task == "features" else "model.final_norm"
    )
    for case in make_cases(checkpoint):
        ours = oracle.run(checkpoint, case.inputs)
        with torch.no_grad():
            given = {name: torch.from_numpy(array) for name, array in case.inputs.as_dict().items()}
            if final_norm:
                del given["token_type_ids"]  # which ModernBERT's classes do not take
            theirs = model(**given, output_hidden_states=True)
            *states, last = theirs.hidden_states
            states.append(final_norm(last) if final_norm else last)  # theirs is what the last norm reads
        real = case.inputs.attention_mask == 1
        for index, expected in enumerate(states):
            found = ours[f"hidden_states.{index}"]
            np.testing.assert_allclose(found[real], expected.numpy()[real], rtol=1e-9, atol=1e-11)
        if "logits" in ours:
            compared = real.any(1) if checkpoint.spec.output_axes("logits")[1] != "length" else real
            np.testing.assert_allclose(ours["logits"][compared], logits_of(theirs)[compared], rtol=1e-9, atol=1e-11)
        if "pooler_output" in ours and "pooler_output" in theirs:
            rows = real[:, 0]
            np.testing.assert_allclose(ours["pooler_output"][rows], theirs.pooler_output.numpy()[rows], rtol=1e-9)
