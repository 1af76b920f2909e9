"""Measuring in bounded memory, and the small pictures that measured videos are compared by."""

import numpy as np
import pytest
import videos
from cutting import run_code

from vmp.data.encode import write_video
from vmp.prepare.cut import describe_difference
from vmp.prepare.measure import BLOCK, BLOCKS, Thumbs, count, small


def test_the_check_after_writing_notices_a_shift(tmp_path):
    """Clips whose frames come one late, or of which one is repeated, against the frames that should be there."""
    wanted = Thumbs()
    for i in range(40):
        wanted.add(small(videos.numbered_frame(i)))
    orders = {
        "right": range(40),
        "late": range(1, 41),
        "repeated": [*range(20), 20, *range(20, 39)],
        "other": range(80, 120),
        "short": range(39),
    }
    message = {}
    for name, order in orders.items():
        write_video(tmp_path / f"{name}.mp4", (videos.numbered_frame(i) for i in order))
        message[name] = describe_difference(wanted, count(tmp_path / f"{name}.mp4").thumbs)
    assert message.pop("right") == ""
    assert all(message.values()), message
    assert "39 frames, not 40" in message["short"]


def test_small_pictures_are_bounded():
    """A hundred thousand frames: under 100 MB are kept, in whole runs from everywhere, and the end."""
    thumbs, n = Thumbs(), 100_000
    base = np.zeros((48, 48, 3), np.uint8)
    for i in range(n):
        thumb = base.copy()
        thumb[0, 0] = i >> 16, i >> 8 & 255, i & 255
        thumbs.add(thumb)
    kept = thumbs.kept()
    assert sum(t.nbytes for t in kept.values()) < 100e6
    assert all(int(t[0, 0, 0]) << 16 | int(t[0, 0, 1]) << 8 | int(t[0, 0, 2]) == i for i, t in kept.items())
    assert set(range(n - BLOCK, n)) <= set(kept)
    assert set(range(BLOCK)) <= set(kept)
    numbers = np.array(sorted(kept))
    assert np.diff(numbers).max() <= n / BLOCKS * 4
    few = Thumbs()
    for _ in range(BLOCK * BLOCKS):
        few.add(base)
    assert len(few.kept()) == BLOCK * BLOCKS


@pytest.mark.slow
def test_measuring_a_long_video_takes_bounded_memory(tmp_path):
    """13,000 small frames in a process of its own; the readers are judged as on short videos."""

    def frames():
        y, x = np.mgrid[:48, :64]
        for i in range(13_000):
            base = (128 + 60 * np.sin((x + 3 * i) / 7) + 40 * np.cos((y - 2 * i) / 9)).astype(np.uint8)
            yield np.stack([base] * 3, axis=-1)

    write_video(tmp_path / "long.mp4", frames(), crf=30, keyframe_every=100)
    # not ru_maxrss, which begins with that of the process that starts this one
    code = (
        "import re, sys; from vmp.prepare.measure import measure\n"
        "def peak(): return int(re.search(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read())[1])\n"
        "before = peak(); print(measure(sys.argv[1])); print(peak() - before)\n"
    )
    done = run_code(code, tmp_path / "long.mp4")
    found, kilobytes = done.stdout.strip().splitlines()
    assert "frames=13000" in found
    assert all(f"'{reader}'" in found for reader in ("opencv", "decord", "pyav"))
    # mostly decord; thumbnails 85 MB, and all whole frames would be 120
    assert int(kilobytes) < 300_000, kilobytes
