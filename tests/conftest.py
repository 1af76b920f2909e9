import os

os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
if "PYTEST_XDIST_WORKER" in os.environ:  # a worker a core: more threads would fight for them
    os.environ.setdefault("OMP_NUM_THREADS", "1")
