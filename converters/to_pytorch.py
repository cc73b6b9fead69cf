"""Write the folder that `from_pretrained` of the head's class in transformers loads. Needs no torch to write."""

from itertools import chain

from yizhi.converters.sentence_transformers import write_modules
from yizhi.model.spec import Parameter
from yizhi.reading.checkpoint import POOLER, WEIGHTS, Checkpoint
from yizhi.reading.safetensors_file import write_safetensors
from yizhi.release.artifact import ArtifactWriter


def convert(checkpoint: Checkpoint, writer: ArtifactWriter) -> None:
    """Write `model.safetensors`: every parameter as float32 under its canonical name.

    Beside a head that does not read it, the pooler goes to `pooler.safetensors`: transformers' classes
    have a pooler only where their head reads it, and would report it as unexpected.
    `model.safetensors.index.pooler.json` joins the two, so `AutoModel.from_pretrained(folder, variant="pooler")`
    has it.
    """
    spec = checkpoint.spec
    write_modules(writer, checkpoint, {})
    apart = spec.head is not None and not spec.head_reads_pooler
    pooler = set(spec.pooler.parameters()) if spec.pooler and apart else set()
    files = {
        WEIGHTS: [parameter for parameter in checkpoint.parameters() if parameter not in pooler],
        POOLER: [parameter for parameter in checkpoint.parameters() if parameter in pooler],
    }
    for name, parameters in files.items():
        if parameters:
            _write_weights(checkpoint, writer, name, parameters)
    if pooler:
        weight_map = {parameter.name: name for name, parameters in files.items() for parameter in parameters}
        writer.write_json("model.safetensors.index.pooler.json", {"metadata": {}, "weight_map": weight_map})


def _write_weights(checkpoint: Checkpoint, writer: ArtifactWriter, name: str, parameters: list[Parameter]) -> None:
    with writer.open(name) as file:
        write_safetensors(
            file,
            {parameter.name: ("F32", parameter.shape) for parameter in parameters},
            chain.from_iterable(checkpoint.chunks(parameter) for parameter in parameters),
        )
