"""Errors: what is wrong, what is accepted, what to do."""


class WorldsheetError(Exception):
    """A refusal in three parts, so that the reader can act on it without opening the source.

    Args:
        problem: a sentence that says what is wrong, with the value that was found.
        accepted: what would have been accepted.
        remedy: what to do about it.
    """

    def __init__(self, problem: str, accepted: str, remedy: str) -> None:
        super().__init__(f"{problem}\n  accepted: {accepted}\n  remedy: {remedy}")
        self.problem = problem
        self.accepted = accepted
        self.remedy = remedy

    def __reduce__(self) -> tuple[type["WorldsheetError"], tuple[str, str, str]]:
        return type(self), (self.problem, self.accepted, self.remedy)


class InputError(WorldsheetError, ValueError):
    """An argument that cannot be right: an empty chain, a rate outside (0, 2), NaN in the input."""


class LayerError(WorldsheetError, RuntimeError):
    """A layer or loss that fails on what it receives: mismatched shapes, an output that is no tensor."""


class RelaxationError(WorldsheetError, ArithmeticError):
    """A relaxation whose gradients must not be used, raised where no `Outcome` can be returned."""


class SitesChangedError(RelaxationError):
    """A forward whose sites depend on its states; a relaxation that meets one ends with an `Outcome` that says so."""
