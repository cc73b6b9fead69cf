"""What training needs installed beside Yizhi itself."""

from importlib.util import find_spec

from converters.errors import NotRun

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
    missing = [_MODULES[module] for module in modules if not find_spec(module)]
    if missing:
        extra = "adapters" if "adapters" in missing else "training"
        raise NotRun("training", f"needs {', '.join(missing)}: pip install 'yizhi[{extra}]'")
