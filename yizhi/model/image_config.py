"""ImageConfig: what `config.json` says about an image stream beside the text (InterBERT)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from yizhi.errors import show
from yizhi.model.layer_config import ACTIVATIONS

# Left, top, right and bottom edge as shares of the image's width and height, and the region's share of its area.
BOX = 5
FUSIONS = ("mul", "sum")

# Each size under its name in the file, with the most that is believed; the code's default where the file is silent.
_SIZES = {
    "v_feature_size": 1 << 16,
    "v_target_size": 1 << 20,
    "t_num_hidden_layers": 1 << 8,
    "v_num_hidden_layers": 1 << 8,
    "v_num_attention_heads": 1 << 16,
    "v_intermediate_size": 1 << 18,
    "bi_hidden_size": 1 << 16,
}
_DEFAULTS = {"bi_hidden_size": 1024}


@dataclass(frozen=True)
class ImageConfig:
    """Hyper-parameters of an image stream.

    features: numbers that describe a region. classes: of a region's logits. text_layers: that the text alone goes
    through, after the shared ones. layers, heads, intermediate_size, hidden_act: of the image's own layers.
    pooled: width of both poolers. fusion: `mul` or `sum`: how the two pooled vectors become one.
    """

    features: int
    classes: int
    text_layers: int
    layers: int
    heads: int
    intermediate_size: int
    pooled: int
    hidden_act: str
    fusion: str


def read_image(raw: Mapping[str, Any], model_type: str, faults: list[str]) -> ImageConfig | None:
    """The image stream of a family that has one; None for the others, or with a fault added to the list.

    `pooling_method`, `conv_layer`, `max_region_length` and `max_seq_length` are not read: the forward pass does not
    use them.
    """
    if model_type != "interbert":
        return None
    before = len(faults)
    sizes: dict[str, int] = {}
    for key, most in _SIZES.items():
        value = raw.get(key, _DEFAULTS.get(key))
        if value is None:
            faults.append(f"{key}: missing")
        elif isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= most:
            faults.append(f"{key}: expected an integer from 1 to {most}; found {show(value)}")
        else:
            sizes[key] = value
    hidden, width = raw.get("hidden_size"), raw.get("v_hidden_size")
    if width is None:
        faults.append("v_hidden_size: missing")
    elif width != hidden or isinstance(width, bool):
        faults.append(
            f"v_hidden_size: expected hidden_size ({show(hidden)}), because tokens and regions share layers; "
            f"found {show(width)}"
        )
    heads = sizes.get("v_num_attention_heads")
    if heads and isinstance(width, int) and width % heads:
        faults.append(f"v_hidden_size: expected a multiple of v_num_attention_heads ({heads}); found {width}")
    chosen: dict[str, tuple[Any, tuple[str, ...]]] = {
        "v_hidden_act": (raw.get("v_hidden_act", "gelu"), tuple(ACTIVATIONS)),
        "fusion_method": (raw.get("fusion_method", "mul"), FUSIONS),
    }
    for key, (value, known) in chosen.items():
        if not isinstance(value, str) or value not in known:
            faults.append(f"{key}: expected one of {', '.join(known)}; found {show(value)}")
    if len(faults) > before:
        return None
    return ImageConfig(
        features=sizes["v_feature_size"],
        classes=sizes["v_target_size"],
        text_layers=sizes["t_num_hidden_layers"],
        layers=sizes["v_num_hidden_layers"],
        heads=sizes["v_num_attention_heads"],
        intermediate_size=sizes["v_intermediate_size"],
        pooled=sizes["bi_hidden_size"],
        hidden_act=chosen["v_hidden_act"][0],
        fusion=chosen["fusion_method"][0],
    )
