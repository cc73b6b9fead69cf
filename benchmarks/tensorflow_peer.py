"""transformers 4.57's TensorFlow classes, made to load safetensors again."""

from typing import Any


class _Archive:
    """`safetensors.safe_open` that can be iterated over, as transformers' TensorFlow loader does.

    The class of safetensors cannot ("'safe_open' object is not iterable"), and transformers 5 dropped the loader.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        from safetensors import safe_open

        self._archive = safe_open(*arguments, **options)

    def __enter__(self):
        self._archive.__enter__()
        return self

    def __exit__(self, *why: object) -> None:
        self._archive.__exit__(*why)

    def __iter__(self):
        return iter(self._archive.keys())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._archive, name)


def mend_loader() -> None:
    """Have transformers use it.

    To be called before TensorFlow is imported: transformers imports torch first, and torch's Triton, where it has one,
    crashes a process that has TensorFlow already.
    """
    from transformers import modeling_tf_utils

    modeling_tf_utils.safe_open = _Archive
