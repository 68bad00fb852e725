"""SciPy's sparse matrices, asked for in one place."""

from types import ModuleType

from bloomery.core.errors import BloomeryError


def library() -> ModuleType:
    """`scipy.sparse`."""
    try:
        from scipy import sparse
    except ImportError as error:
        raise BloomeryError("scipy is not installed", why=str(error), hint="pip install 'bloomery[text]'") from error
    return sparse
