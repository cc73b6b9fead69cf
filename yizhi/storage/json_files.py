"""JSON files: reading names every fault, and equal values give equal bytes."""

import errno
import json
from pathlib import Path
from typing import Any

from yizhi.errors import InputError


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object. Raises InputError, also for text that cannot be written again."""
    try:
        if path.exists() and not path.is_file():  # reading a pipe would wait for ever
            raise OSError(errno.EINVAL, "is no file")
        value = json.loads(path.read_text(encoding="utf-8"))
        # Python's parser also takes NaN, 1e999 and lone surrogates, which no artifact could carry on.
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except FileNotFoundError:
        raise InputError(path, "the file is missing") from None
    except OSError as error:
        raise InputError(path, f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(path, f"is not UTF-8 (byte {error.start})") from None
    except UnicodeEncodeError:
        raise InputError(path, "is not JSON: a string holds half of a surrogate pair") from None
    except (ValueError, RecursionError) as error:
        raise InputError(path, f"is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise InputError(path, f"expected a JSON object; found {type(value).__name__}")
    return value


def to_json(value: object) -> str:
    """Readable JSON with sorted keys and a final newline."""
    return json.dumps(value, ensure_ascii=False, indent=2, sort_keys=True) + "\n"
