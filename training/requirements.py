"""The packages that training needs beyond Yizhi's own."""

from importlib.util import find_spec

from yizhi.errors import NotRun

# Module -> the name that pip knows it by.
_MODULES = {
    "accelerate": "accelerate",
    "adapters": "adapters",
    "jieba": "jieba",
    "matplotlib": "matplotlib",
    "peft": "peft",
    "seqeval": "seqeval",
    "sklearn": "scikit-learn",
    "torch": "torch",
    "transformers": "transformers",
}


def require(*modules: str) -> None:
    """Raise NotRun, naming the extra, unless all these modules can be imported."""
    missing = [_MODULES[module] for module in modules if not _is_installed(module)]
    if missing:
        extra = "adapters" if "adapters" in missing else "training"
        raise NotRun("training", f"needs {', '.join(missing)}: pip install 'yizhi[{extra}]'")


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ValueError:  # adapters, once imported, has put another module without a spec in its own place
        return True
