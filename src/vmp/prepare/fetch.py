"""The official archives and annotations of a dataset, fetched for `--download`; FineGym's videos through yt-dlp.

Notes:
- nobody publishes checksums of the archives: the SHA-256 is recorded at the first use and compared at every later one.
  They are fetched over https only, since at the first use nothing else vouches for them;
- a RAR needs a program to unpack it, which is looked for before gigabytes are fetched;
- FineGym's videos are on YouTube. yt-dlp is the user's own, found on the PATH and called without a shell and without
  its configuration, which could choose another format or name; it resumes by itself. A video that is gone is listed,
  and its clips are missing in the manifests.
"""

import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from vmp.errors import ConfigError, DataError, shortlist
from vmp.prepare import mpii
from vmp.prepare.unpack import find_rar_tool
from vmp.prepare.videos import find_videos
from vmp.transfer import Failed, begun, check_digest, download, keep_part, name_of, remove_part

_SERRE = "serre-lab.clps.brown.edu/wp-content/uploads/2013/10"
_UCF = "https://www.crcv.ucf.edu"
_MPII = "https://datasets.d2.mpi-inf.mpg.de/MPII-Cooking-2"
_GYM = "https://sdolivia.github.io/FineGym/resources/dataset"


@dataclass(frozen=True, slots=True)
class Source:
    """A file that an option of the command is about."""

    option: str  # without its dashes
    urls: tuple[str, ...]  # places of the same file


SOURCES: dict[str, tuple[Source, ...]] = {
    "hmdb51": (
        Source("splits", (f"https://{_SERRE}/test_train_splits.rar",)),
        Source("videos", (f"https://{_SERRE}/hmdb51_org.rar",)),
    ),
    "ucf101": (
        Source("annotations", (f"{_UCF}/data/UCF101/UCF101TrainTestSplits-RecognitionTask.zip",)),
        Source(
            "videos",
            (f"{_UCF}/data/UCF101/UCF101.rar", f"{_UCF}/datasets/human-actions/ucf101/UCF101.rar"),
        ),
    ),
    "mpii_cooking2": (
        Source("mat", (f"{_MPII}/annos/attributesAnnotations_MPII-Cooking-2.mat",)),
        Source("videos", (f"{_MPII}/MPII-Cooking-2-videos.tar.gz",)),
    ),
    "finegym": tuple(
        Source("annotations", (f"{_GYM}/{name}",))
        for name in (
            "gym99_train_element_v1.1.txt",
            "gym99_val_element.txt",
            "finegym_annotation_info_v1.1.json",
        )
    ),
}
LICENCES = {
    "hmdb51": "CC BY 4.0",
    "ucf101": "none stated; research use",
    "mpii_cooking2": f"as stated on {mpii.PAGE}",
    "finegym": "annotations CC BY-NC 4.0 (non-commercial use only); the videos belong to their owners",
}


def fetch(source: Source, folder: Path, *, progress: bool = True) -> Path:
    """A source's file in `folder`, fetched from the first URL that gives it; an earlier attempt is continued.

    Raises:
        DataError: no URL gave it, or it is not what it was or should be.
        ConfigError: it is a RAR and no program is there to unpack it.
    """
    paths = [folder / name_of(url) for url in source.urls]
    if any(path.suffix == ".rar" for path in paths):
        print(f"{paths[0].name} will be unpacked with {find_rar_tool(paths[0])}", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    failed: list[str] = []
    with FileLock(folder / ".lock"):
        places = [
            (url, path, path.with_name(f"{path.name}.part"))
            for url, path in zip(source.urls, paths, strict=True)
        ]
        for url, path, part in sorted(places, key=lambda place: not begun(place[0], place[2])):
            if not path.is_file():
                print(f"fetch {url}", flush=True)
                try:
                    _fetch(url, part, progress)
                except Failed as error:
                    failed.append(f"  {url}\n    {error}")
                    continue
                keep_part(part, path)
            check_digest(path, DataError)
            return path
    raise DataError(
        "a file could not be fetched:\n" + "\n".join(failed) + "\n"
        "Only https is tried, since no checksum of it is published. Fetch it where there is a network (a browser will "
        f"do) and put it at\n  {paths[0]}\n"
        f"or name it with --{source.option}. The same command again continues."
    )


def _fetch(url: str, part: Path, progress: bool) -> None:
    length_known = download(url, part, progress=progress)
    with open(part, "rb") as file:
        page = file.read(64).lstrip().startswith(b"<")
    if page or not length_known:
        remove_part(part)
        cut = "the server did not say how long the file is, so it may have been cut short on its way"
        raise Failed("a web page came, not the file" if page else cut)


def fetch_videos(ids: Iterable[str], folder: Path) -> None:
    """Videos of YouTube that are not in `folder` yet, as <id>.mp4 or .webm without sound, through yt-dlp.

    Prints which could not be fetched. Raises ConfigError where yt-dlp is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    there = find_videos(folder)
    wanted = [id for id in sorted(set(ids)) if id not in there]
    tool = shutil.which("yt-dlp")
    if wanted and not tool:
        raise ConfigError(
            f"--download: {len(wanted)} videos are on YouTube, and yt-dlp, which fetches them, is not installed. "
            f"Install it (pip install yt-dlp), or put the videos as <id>.mp4 into {folder}"
        )
    failed: list[str] = []
    for count, id in enumerate(wanted, 1):
        print(f"fetch video {id} ({count} of {len(wanted)})", flush=True)
        options = ["--ignore-config", "--no-playlist", "--no-progress", "--quiet"]
        options += ["--format", "bv*[height<=720]/b[height<=720]/bv*/b"]
        target = ["--output", str(folder / "%(id)s.%(ext)s"), "--", f"https://www.youtube.com/watch?v={id}"]
        done = subprocess.run(
            [str(tool), *options, *target],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
        if done.returncode:
            why = (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]
            failed.append(f"{id}: {why[:200]}")
    if failed:
        print(
            f"{len(failed)} of {len(wanted)} video(s) could not be fetched:\n{shortlist(failed, 20)}",
            flush=True,
        )
