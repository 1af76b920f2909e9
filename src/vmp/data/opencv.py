"""The module cv2, for everything that processes may be forked from."""

from functools import cache
from typing import Any


@cache
def opencv() -> Any:
    """The module cv2, without threads of its own: a process forked from one in which OpenCV has used threads hangs or
    crashes as soon as it uses them."""
    import cv2

    cv2.setNumThreads(1)
    return cv2
