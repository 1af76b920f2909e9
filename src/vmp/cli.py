"""What the commands share: errors as one message, Hydra's own explained."""

import argparse
import errno
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from vmp.choices import MOST_FPS
from vmp.errors import ConfigError, UserError
from vmp.invocation import typed_command
from vmp.streams import tolerate_failing_streams

os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # so that errors reach us, to be explained
# conf/hydra/launcher replaces the values of two launchers' plugins; Hydra 1.3 warns that it takes those as schemas
warnings.filterwarnings("ignore", r"(?s).*is validated against ConfigStore schema", UserWarning)

# of files and folders that the person at the keyboard can put right
_NO_ACCESS = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENOSPC,
    errno.EDQUOT,
    # a folder in place of a file, or a file in place of a folder
    *(errno.EISDIR, errno.ENOTDIR, errno.EEXIST),
    *(errno.EIO, errno.ESTALE),  # a disk or a server of files that fails
)


class _Parser(argparse.ArgumentParser):
    """A parser whose options of type Path may start with ~: shells leave the one in --out=~/x."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.register("type", Path, lambda word: Path(word).expanduser())


def parser_of(doc: str | None) -> argparse.ArgumentParser:
    """A parser with a script's docstring as its help: the first line above the options, the rest below them."""
    first, _, rest = (doc or "").partition("\n\n")
    words = typed_command()
    return _Parser(
        prog=" ".join(words[:2]) if words[0] == "vmp" else None,
        description=first,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def absolute(word: str) -> Path:
    """The path of an option, for a command that works in another folder than the one it was started in."""
    return Path(word).expanduser().absolute()


def check_fps(fps: float) -> None:
    """Raise ConfigError unless --fps is a rate that a manifest can hold, or 0: not given."""
    if not 0 <= fps < MOST_FPS:
        raise ConfigError(
            f"--fps {fps:g}: must be a number of frames per second above 0 and below {MOST_FPS:,}"
        )


def print_notes(notes: Iterable[str], file: TextIO | None = None) -> None:
    """Print remarks on what a command opened, one per line; file: None is stdout."""
    for note in notes:
        print(f"note: {note}", file=file)


@contextmanager
def friendly(command: str = "train") -> Iterator[None]:
    """End the process with one message and exit code 2 for a UserError or a wrong override; 128 + signal when stopped.

    Anything else is a bug and keeps its traceback.

    Args:
        command: train or evaluate, whose keys a message may suggest.
    """
    with tolerate_failing_streams():
        try:
            yield from _explained(command)
        except KeyboardInterrupt as error:
            print(": ".join(["interrupted", *map(str, error.args)]), file=sys.stderr)
            sys.exit(130)


def _explained(command: str) -> Iterator[None]:
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError  # type: ignore[import-untyped]

    try:
        yield
    except UserError as error:
        code = getattr(error, "code", 2)  # Stopped has another: a planned stop is not an error
        print(f"{'error: ' if code == 2 else ''}{error}", file=sys.stderr)
        sys.exit(code)
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        from vmp.explain import explain

        print(f"error: {explain(error, command)}", file=sys.stderr)
        sys.exit(2)
    except RuntimeError as error:
        # torch's handler of SIGCHLD raises anywhere; the run explains it where it can
        if "DataLoader worker (pid" not in str(error):
            raise
        print(f"error: a data worker died ({error}). The same command continues", file=sys.stderr)
        sys.exit(2)
    except UnicodeEncodeError as error:
        print(
            f"error: {error.object[:200]!a}: cannot be encoded as {error.encoding}. Names and paths must be UTF-8; if "
            f"this one is, the locale is not: the system's encoding is {sys.getfilesystemencoding()} here, and setting "
            "PYTHONUTF8=1 makes it UTF-8",
            file=sys.stderr,
        )
        sys.exit(2)
    except UnicodeDecodeError as error:  # of a config file, which Hydra and OmegaConf read
        near = error.object[max(0, error.start - 30) : error.start].decode("utf-8", "replace")
        print(
            f"error: a config file is not UTF-8 ({error.reason}, after {near!r}): save it as UTF-8",
            file=sys.stderr,
        )
        sys.exit(2)
    except ValueError as error:
        if "--multirun, --cfg" not in str(error):
            raise
        print("error: --cfg shows one run: leave -m and its lists out", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno not in _NO_ACCESS or not error.filename:
            raise
        where = error.filename2 or error.filename  # the second: where a file is moved to
        place = os.path.abspath(os.fsdecode(where))
        print(f"error: {place}: cannot be read or written ({error.strerror})", file=sys.stderr)
        sys.exit(2)


def arguments(command: str) -> None:
    """Rewrite the command line so that Hydra can read it.

    Raises:
        ConfigError: a word cannot be read, or has more than one reading.
    """
    from vmp.overrides import hydra_arguments

    sys.argv[1:] = hydra_arguments(sys.argv[1:], command)
