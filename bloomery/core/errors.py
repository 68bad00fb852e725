"""Errors for people: what happened, where, why, and what to try.

Every error a user can cause is one of these; the command line prints the four parts on one screen and exits with
`exit_code`.  Anything else is a defect of ours and keeps its traceback.
"""


class BloomeryError(Exception):
    """Something a person can mend. `what` is one line; `where`, `why` and `hint` may be left out."""

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", why: str = "", hint: str = ""):
        self.what, self.where, self.why, self.hint = what, where, why, hint
        super().__init__(what)

    def __str__(self) -> str:
        parts = [("error", self.what), ("where", self.where), ("why", self.why), ("try", self.hint)]
        return "\n".join(f"{name + ':':<7}{text}" for name, text in parts if text)


class InputError(BloomeryError, ValueError):
    """Data or a value that cannot be used: an empty corpus, a missing file, two equal answers."""


class ConfigError(BloomeryError, ValueError):
    """A recipe, an option or a command that cannot be read. Exit code 2."""

    exit_code = 2


class GateError(BloomeryError):
    """A check that must hold did not: a damaged file, a parity above tolerance. Exit code 3."""

    exit_code = 3


class Preempted(BloomeryError):
    """Asked to stop, saved, resumable: run the same command again. Exit code 75."""

    exit_code = 75


class Interrupted(BloomeryError):
    """Stopped by Ctrl-C in work that cannot save half-way. Exit code 130."""

    exit_code = 130


class Defect(BloomeryError):
    """A failure nobody foresaw: ours to mend. Its cause keeps the traceback."""
