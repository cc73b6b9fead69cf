"""Write the folder that `AutoModelForMaskedLM.from_pretrained` loads. Needs no torch to write."""

from itertools import chain

from converters.artifact import ArtifactWriter
from converters.checkpoint import POOLER, WEIGHTS, Checkpoint
from converters.safetensors_file import write_safetensors
from converters.spec import Parameter


def convert(checkpoint: Checkpoint, writer: ArtifactWriter) -> None:
    """Write `model.safetensors`: every parameter as float32 under its canonical name.

    Beside a head, the pooler goes to `pooler.safetensors`: transformers' masked-LM classes have no
    pooler and would report it as unexpected. `model.safetensors.index.pooler.json` joins the two, so
    `AutoModel.from_pretrained(folder, variant="pooler")` has it.
    """
    pooler = set(checkpoint.spec.pooler.parameters()) if checkpoint.spec.pooler and checkpoint.spec.head else set()
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
