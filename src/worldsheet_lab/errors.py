"""Errors of runs and data sets."""

from worldsheet.core.errors import WorldsheetError


class DataMissingError(WorldsheetError, FileNotFoundError):
    """A data set that is neither on this machine nor to be had from the network."""


class RunFolderError(WorldsheetError, OSError):
    """A run folder that cannot be written, read or resumed."""
