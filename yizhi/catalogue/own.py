"""A team's own catalogue file: known checkpoints, and outputs published for them (docs/catalogue.md)."""

import os
from pathlib import Path

OWN_CATALOGUE = "YIZHI_CATALOGUE"


def find_own_catalogue() -> Path | None:
    """The file that the environment variable `OWN_CATALOGUE` names, if it is set."""
    own = os.environ.get(OWN_CATALOGUE)
    return Path(own) if own else None
