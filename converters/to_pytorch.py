"""Write the folder that `from_pretrained` of the head's class in transformers loads. Needs no torch to write."""

import numpy as np
from numpy.typing import NDArray

from yizhi.converters.sentence_transformers import write_modules, write_tensors
from yizhi.model.architectures import FAMILIES
from yizhi.model.rotary import ROFORMER_TABLE, make_roformer_table
from yizhi.model.spec import parameters_of
from yizhi.reading.checkpoint import POOLER, TOKEN_HEADS, WEIGHTS, Checkpoint
from yizhi.release.artifact import ArtifactWriter


def convert(checkpoint: Checkpoint, writer: ArtifactWriter, keep_bf16: bool = False) -> None:
    """Write `model.safetensors`: every parameter as float32 under its canonical name.

    keep_bf16: the checkpoint's bfloat16 tensors stay bfloat16. `config.json` still says float32, which is how
    transformers computes from them.
    Beside RoFormer's is a table of rotary positions, which transformers would report as missing.
    Beside a head that does not read it, the pooler goes to `pooler.safetensors`: transformers' classes
    have a pooler only where their head reads it, and would report it as unexpected. So do heads over tokens, to
    `token_heads.safetensors`, and Dense modules, to where sentence-transformers reads them.
    `model.safetensors.index.pooler.json` joins the two, so `AutoModel.from_pretrained(folder, variant="pooler")`
    has it.
    """
    spec = checkpoint.spec
    write_modules(writer, checkpoint, {}, keep_bf16)
    apart = spec.head is not None and not spec.head_reads_pooler and spec.image is None
    pooler = set(parameters_of(spec.pooler)) if apart else set()
    heads = {*parameters_of(spec.token_weights), *parameters_of(spec.token_vectors)}
    elsewhere = pooler | heads | set(parameters_of(spec.pooling))
    files = {
        WEIGHTS: [parameter for parameter in checkpoint.parameters() if parameter not in elsewhere],
        POOLER: [parameter for parameter in checkpoint.parameters() if parameter in pooler],
        TOKEN_HEADS: [parameter for parameter in checkpoint.parameters() if parameter in heads],
    }
    for name, parameters in files.items():
        if parameters:
            tables = _tables(checkpoint) if name == WEIGHTS else {}
            write_tensors(checkpoint, writer, name, parameters, tables, keep_bf16=keep_bf16)
    if pooler:
        weight_map = {parameter.name: name for name in (WEIGHTS, POOLER) for parameter in files[name]}
        writer.write_json("model.safetensors.index.pooler.json", {"metadata": {}, "weight_map": weight_map})


def _tables(checkpoint: Checkpoint) -> dict[str, NDArray[np.float32]]:
    config = checkpoint.config
    if ROFORMER_TABLE not in FAMILIES[config.model_type].ignored:
        return {}
    return {ROFORMER_TABLE: make_roformer_table(config.max_position_embeddings, config.head_size)}
