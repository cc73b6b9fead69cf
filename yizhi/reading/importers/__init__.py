"""Foreign formats in, a canonical checkpoint out. docs/importing.md says what is read, and how exactly."""

from yizhi.reading.importers.importer import import_checkpoint
from yizhi.reading.importers.report import ImportReport

__all__ = ["ImportReport", "import_checkpoint"]
