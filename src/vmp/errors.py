"""Errors for people: the message says what was found where, what is allowed and what to do; no traceback is shown."""


class UserError(Exception):
    """Something that the person at the keyboard can put right. The commands print it and exit with 2."""


class ConfigError(UserError):
    """A config key or value that is wrong, or two that contradict each other."""


class ManifestError(UserError):
    """A manifest or list file that cannot be used; the message has file:line for each fault."""


class VideoReadError(UserError):
    """A video from which the requested frames could not be read."""

    def __init__(self, path: object, reason: str, *, reader: str | None = None) -> None:
        super().__init__(f"{path}: {reason}" + (f" (reader: {reader})" if reader else ""))
        self.path, self.reason, self.reader = str(path), reason, reader

    def __reduce__(self):  # exceptions with keywords need this to cross processes
        return _rebuild, (self.path, self.reason, self.reader)


def _rebuild(path: str, reason: str, reader: str | None) -> VideoReadError:
    return VideoReadError(path, reason, reader=reader)


class DataError(UserError):
    """More clips are missing or unreadable than `data.max_bad_fraction` allows, or a split is empty."""


class WeightsError(UserError):
    """Pretrained weights that cannot be fetched, read, or do not fit the backbone."""


class RunError(UserError):
    """A run's folder that cannot be used: another config, another process, a damaged checkpoint."""


def shortlist(items: list[str], limit: int = 10) -> str:
    """Indented lines, the first `limit` of them."""
    lines = [f"  {item}" for item in items[:limit]]
    if len(items) > limit:
        lines.append(f"  ... and {len(items) - limit} more")
    return "\n".join(lines)


def first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
