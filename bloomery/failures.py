"""What a stage may die of, in words for people: a full disk, no memory, a request to stop, and our own defects."""

import re
import shutil
import signal
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bloomery.core.artifacts import FULL
from bloomery.core.errors import BloomeryError, Defect, Interrupted, Preempted

OS_ERROR = re.compile(r"\(os error (\d+)\)")               # how libraries written in Rust report a system call
AGAIN = "run the same command again to go on"


def stop_at_once_on_signals() -> None:
    """Ctrl-C and SIGTERM raise, right for work that starts anew; training puts in handlers that let it save."""
    def terminate(number: int, frame: object) -> None:
        raise Preempted("stopped", why="SIGTERM received", hint=AGAIN)

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, terminate)


@contextmanager
def failures_explained(folder: Path | None = None) -> Iterator[None]:
    """Turn every failure into an error for people. An unknown one is ours: a stage's `folder` keeps its traceback."""
    where = str(folder or "")
    try:
        yield
    except (BloomeryError, BrokenPipeError):
        raise
    except KeyboardInterrupt:
        raise Interrupted("stopped", where=where, hint=AGAIN) from None
    except MemoryError as error:
        raise out_of_memory(where) from error
    except OSError as error:
        if error.errno in FULL:
            raise disk_full(error, folder or Path()) from error
        raise BloomeryError("the system refused a file", where=where, why=str(error),
                            hint=f"mend what it names and {AGAIN}") from error
    except Exception as error:
        if type(error).__name__ == "OutOfMemoryError":      # torch.OutOfMemoryError, without importing torch for it
            raise out_of_memory(where) from error
        if (number := OS_ERROR.search(str(error))) and int(number[1]) in FULL:
            raise disk_full(error, folder or Path()) from error
        kept = folder / ".traceback.txt" if folder else None
        if kept:
            kept.write_text(traceback.format_exc(), encoding="utf-8")
        raise Defect(f"{type(error).__name__}: {error}", where=str(kept or ""), why="this is a defect of bloomery",
                     hint="--debug shows the traceback" + ("; the file above keeps it" if kept else "")) from error


def disk_full(error: Exception, folder: Path) -> BloomeryError:
    exists = next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
    return BloomeryError("the disk is full", where=str(folder),
                         why=f"{error}; {shutil.disk_usage(exists).free / 2**20:.0f} MiB are free there",
                         hint="free some space, or choose another folder with --out; finished stages are kept")


def out_of_memory(where: str) -> BloomeryError:
    return BloomeryError("not enough memory", where=where,
                         hint="use a smaller batch, context or model; run --dry-run says what is needed")
