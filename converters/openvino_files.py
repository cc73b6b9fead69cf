"""The names of an OpenVINO artifact's graphs. Needs no openvino."""


def graph_file(signature: str) -> str:
    """The file that computes this group of outputs. `openvino_model.xml` is what optimum-intel looks for."""
    return "openvino_model.xml" if signature == "serving_default" else f"{signature}.xml"
