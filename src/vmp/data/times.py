"""The timestamps of a file's frames, and the frames of a span in seconds.

Notes:
- every picture has its own time; headers name rates that the pictures do not have (1000 per second in Matroska files,
  60 where 30 are shown, an average over a pause), so the rate is (n - 1) / (last - first) of the pictures themselves;
- times belong to pictures in the order in which they are shown: in AVI files with B-frames the decoder's timestamps are
  out of order, so they are sorted first;
- a clock may start again in the middle of a file, as in recordings that were joined byte by byte; times then go on
  from where they were (`continued`);
- seconds count from the zero of the file's clock, as in an HTML5 player, ffmpeg -ss and the annotation tools built on
  them: the moment at which the first of the file's streams begins. Where sound comes first, the first picture is later;
- a pause (a step far longer than the others) is shortened where frames are sampled, and only there (`even_frames`):
  otherwise most samples of a recording with a pause would be one frame;
- where (first, rate) do not give every time to the microsecond, the steps between pictures are kept as text, in
  microseconds, repeats as STEP*COUNT: those of a file in measured.jsonl, and those of a clip in the manifest, but there
  only where they are uneven by more than a container's rounding.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import groupby
from typing import get_args

import numpy as np

from vmp.choices import Clock

CLOCKS: tuple[Clock, ...] = get_args(Clock)
EVEN = 1.5e-3  # seconds by which times that a container rounds to milliseconds may differ from even ones
CLOSE = 2e-6  # seconds: two times that differ by less are the same
REORDERED = 17  # frames: more than B-frames put times out of order
LEAP = 10.0  # seconds: a longer step is a jump, not a pause, where a clock may jump (as in FFmpeg)
PAUSE, PAUSE_STEPS = 1.0, 10  # seconds, typical steps; what is longer than both is a pause
COMMON = (*(Fraction(n * 1000, 1001) for n in (24, 30, 60)), *map(Fraction, (24, 25, 30, 50, 60)))
_STEPS = re.compile(r"\d{1,18}(\*[1-9]\d{0,8})?( \d{1,18}(\*[1-9]\d{0,8})?)*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Timeline:
    """When the pictures of a video, or of a part of it, are shown."""

    frames: int
    rate: float  # pictures per second, (n - 1) / (last - first); 0: neither pictures nor header say
    first: float = 0.0  # seconds on the file's clock at which picture 0 is shown
    steps: str = ""  # from `write_steps`; empty where picture i is shown at first + i / rate

    def seconds(self, clock: Clock = "file") -> np.ndarray:
        """The time of each picture, (frames,) of float64, ascending."""
        return _seconds(self, clock)

    @property
    def even(self) -> bool:
        """Whether the pictures are evenly spaced in time, but for rounding to milliseconds."""
        return not self.steps or _drifts_little(self)

    def part(self, start: int, end: int) -> str:
        """The steps of pictures [start, end), for a manifest; empty where the file's are even."""
        return "" if self.even or end - start < 2 else write_steps(self.seconds()[start:end])

    def end(self, clock: Clock = "file") -> float:
        """The time of the last picture plus a typical step."""
        return _end(self, clock)

    def span(self, start: float, end: float | None, *, clock: Clock = "file") -> tuple[int, int]:
        """Pictures [first, last) whose times lie in [start, end) seconds; end None: to the last one.

        Where no picture does, the one on the screen at `start`; (0, 0) where the span ends before the first picture.
        """
        at = self.seconds(clock)
        first = int(np.searchsorted(at, start - CLOSE))
        last = len(at) if end is None else int(np.searchsorted(at, end - CLOSE))
        return (first, last) if last > first else (max(0, first - 1), first)


# of a file's many clips, only the first one takes the time that its length costs
@lru_cache(maxsize=8)
def _seconds(times: Timeline, clock: Clock) -> np.ndarray:
    zero = times.first if clock == "file" else 0.0
    steps = read_steps(times.steps) if times.steps else np.arange(times.frames) / (times.rate or 1.0)
    seconds = zero + steps
    seconds.flags.writeable = False
    return seconds


@lru_cache(maxsize=8)
def _end(times: Timeline, clock: Clock) -> float:
    at = _seconds(times, clock)
    return float(at[-1] + typical_step(at, times.rate)) if len(at) else 0.0


@lru_cache(maxsize=8)
def _drifts_little(times: Timeline) -> bool:
    return _drift(_seconds(times, "file"), times.rate) < EVEN


def timeline(
    times: Sequence[float | None],
    *,
    rates: Sequence[Fraction] = (),
    frames: int | None = None,
    zero: float = 0.0,
    leaps: bool = False,
) -> Timeline:
    """The timeline of a file, from the times of its pictures.

    Args:
        times: seconds, in the order of packets or frames; None where a picture bears no time.
        rates: from the header. Of these and the common rates, the one that fits all times best is taken, exactly, if
            it does so within EVEN; where pictures bear no times, the first of these is taken.
        frames: how many pictures there are; None: as many as times.
        zero: the file's clock at its start, in the same seconds.
        leaps: the clock may also jump ahead (MPEG transport and program streams).
    """
    named = [rate for rate in rates if rate > 0]
    known = np.sort(continued([time for time in times if time is not None], leaps=leaps))
    count = len(times) if frames is None else frames
    if len(known) < count or count < 2 or known[-1] - known[0] < CLOSE:
        first = float(known[0]) - zero if len(known) else 0.0
        return Timeline(count, float(named[0]) if named else 0.0, max(0.0, first))
    rate = (count - 1) / float(known[-1] - known[0])
    first = max(0.0, float(known[0]) - zero)
    likely = [float(even) for even in (*named, *COMMON) if abs(float(even) / rate - 1) < 0.5]
    best = min(likely, key=lambda even: _drift(known, even), default=rate)
    rate = best if _drift(known, best) < EVEN else rate
    return Timeline(count, rate, first, "" if _drift(known, rate) < CLOSE else write_steps(known))


def continued(times: Sequence[float], *, leaps: bool = False) -> np.ndarray:
    """Times, (n,) of float64, that go on by a typical step where the file's clock starts again.

    It starts again where a time and the one after it lie further back than B-frames put times out of order, or, with
    `leaps`, where both lie more than LEAP ahead.
    """
    seconds = np.array(times, dtype=np.float64)
    steps = np.abs(np.diff(seconds))
    if not (steps > CLOSE).any():
        return seconds
    step = float(np.median(steps[steps > CLOSE]))
    latest = np.maximum.accumulate(seconds)[:-1]
    if not (seconds[1:] < latest - REORDERED * step).any() and not (leaps and (steps > LEAP).any()):
        return seconds
    shift, last = 0.0, float(seconds[0])
    for i in range(1, len(seconds)):
        now = float(seconds[i]) + shift
        after = float(seconds[min(i + 1, len(seconds) - 1)]) + shift
        back = max(now, after) < last - REORDERED * step
        if back or (leaps and min(now, after) > last + LEAP):
            one = np.diff(np.sort(seconds[:i]))  # in order, whether they are of packets or of frames
            then = last + (float(np.median(one[one > CLOSE])) if (one > CLOSE).any() else step)
            shift += then - now
            now = then
        seconds[i] = now
        last = max(last, now)
    return seconds


def _drift(times: np.ndarray, rate: float) -> float:
    """The range, in seconds, of the differences between times and even ones."""
    return float(np.ptp(times - np.arange(len(times)) / rate))


def typical_step(seconds: np.ndarray, rate: float = 0.0) -> float:
    """The mean of the steps that are about as long as the median step; 1 / rate where there are no steps."""
    steps = np.diff(seconds)
    steps = steps[steps > CLOSE]
    if not len(steps):
        return 1 / rate if rate else 0.0
    median = float(np.median(steps))
    if not (np.abs(steps - median) < median / 4).any():  # between two steps
        median = float(np.sort(steps)[(len(steps) - 1) // 2])
    mean = float(steps[np.abs(steps - median) < median / 4].mean())
    common = min((1 / float(even) for even in COMMON), key=lambda step: abs(step / mean - 1))
    return common if abs(common / mean - 1) < 0.002 else mean


def even_frames(steps: str, count: int) -> tuple[np.ndarray, float]:
    """Pictures at uneven times as a video of an even rate, that of their typical step.

    ValueError: `steps` is not of `count` pictures.

    Returns:
        The picture, from 0, that is on the screen at each frame of the even video, (n,) of int64, ascending from the
        first to the last; and the even video's frames per second. A picture up to half a step late still counts for
        its frame, so that jitter neither repeats nor skips one. Steps longer than `_longest_step` count as that.
    """
    at = read_steps(steps)
    if len(at) != count:
        raise ValueError(f"times has {len(at)} frames, the clip has {count}")
    step = typical_step(at)
    if not step:
        return np.arange(count), 0.0
    between, most = np.diff(at), _longest_step(step)
    if between.max() > most:
        at = np.concatenate(([0.0], np.cumsum(np.minimum(between, most))))
    frames = np.arange(round(float(at[-1]) / step) + 1) * step
    return np.searchsorted(at, frames + step / 2, side="right") - 1, 1 / step


def pauses(steps: str) -> np.ndarray:
    """The lengths in seconds of the steps that `even_frames` shortens, (pauses,)."""
    at = read_steps(steps) if steps else np.zeros(1)
    between = np.diff(at)
    return between[between > _longest_step(typical_step(at))]


def _longest_step(typical: float) -> float:
    return max(PAUSE, PAUSE_STEPS * typical) + CLOSE


def write_steps(seconds: np.ndarray) -> str:
    """Steps between times in microseconds; rounding does not add up."""
    steps = np.diff(np.round((seconds - seconds[0]) * 1e6).astype(np.int64))
    runs = ((step, len(list(run))) for step, run in groupby(steps.tolist()))
    return " ".join(f"{step}*{count}" if count > 1 else f"{step}" for step, count in runs)


def read_steps(text: str) -> np.ndarray:
    """Seconds from the first picture, (steps + 1,) of float64; ValueError: not in the format of `write_steps`."""
    if not _STEPS.fullmatch(text):
        raise ValueError(
            f"times {text[:80]!r}: must be microseconds between frames, such as 33333*12 66667 33333"
        )
    pairs = np.array(
        [part.split("*") if "*" in part else (part, 1) for part in text.split(" ")], dtype=np.int64
    )
    if pairs[:, 1].sum() > 10**8:
        raise ValueError(f"times {text[:80]!r}: more than 100 million frames")
    if pairs.astype(float).prod(axis=1).sum() > 9e18:
        raise ValueError(f"times {text[:80]!r}: more than 9e12 seconds")
    return np.concatenate(([0], np.cumsum(np.repeat(pairs[:, 0], pairs[:, 1])))) / 1e6
