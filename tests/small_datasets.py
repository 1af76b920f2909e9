"""Small trees of HMDB-51, FineGym and MPII Cooking 2 with the traps of the real ones, and what tests do with them."""

import json
import shutil
import zipfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import videos

from vmp.data.decode import READERS
from vmp.data.encode import write_video
from vmp.data.manifest import read_manifest
from vmp.prepare.dataset import prepare
from vmp.prepare.mpii import plan_mpii
from vmp.prepare.plan import DatasetPlan


def small_video(path: Path, frames: int = 12, **options) -> Path:
    """Noise that moves: a few kB, and no two frames alike."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 256, (8, 200, 3), dtype=np.uint8).repeat(8, 0)
    write_video(path, (noise[:, 4 * i : 4 * i + 64].repeat(1, 1) for i in range(frames)), **options)
    return path


def run(plan, out, **options):
    return prepare(plan, out, progress=False, workers=1, **options)


def read(out: Path, split: str):
    path = out / f"{split}.csv"
    return read_manifest(path)


def number(manifest, clip, index=0) -> int:
    """The number that a frame of a clip shows."""
    return videos.number_of(next(iter(READERS["pyav"](manifest.file(clip), np.array([clip.start + index])))))


def plan_of(folder, **splits):
    items = {name: tuple(part) for name, part in splits.items()}
    return DatasetPlan(name="some", classes=("a", "b"), splits=items, videos=folder)


NAMES = {
    "climb": (
        *("-_[HD]_up_climb_f_cm_np1_ba_goo_0", "#1_a;-)_climb_u_nm_np10_fr_med_1"),
        "b_&_c_climb_l_cm_np0_le_bad_2",
    ),
    "climb_stairs": (
        *("s!(x)_climb_stairs_h_nm_np2_ri_med_0", "t]_climb_stairs_f_cm_np1_fr_goo_1"),
        "u_climb_stairs_f_cm_np1_fr_goo_2",
    ),
    "kick_ball": tuple(f"{name}_kick_ball_f_cm_np2_fr_med_{i}" for i, name in enumerate("klm")),
}


USES = {1: "120", 2: "201", 3: "112"}  # of the three clips of a class, in split 1, 2, 3


def write_splits(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for category, stems in NAMES.items():
        for fold, uses in USES.items():
            lines = [f"{stem}.avi {use} \n" for stem, use in zip(stems, uses, strict=True)]
            (folder / f"{category}_test_split{fold}.txt").write_text("".join(lines), encoding="utf-8")
    return folder


def make_hmdb(home: Path) -> Path:
    """Three classes of three clips, one of them missing, one as .mp4, and strange files between them."""
    for category, stems in NAMES.items():
        for stem in stems:
            small_video(home / f"videos/{category}/{stem}.avi", codec="mpeg4", crf=5)
    (home / "videos/kick_ball" / f"{NAMES['kick_ball'][2]}.avi").unlink()
    first = home / "videos/climb_stairs" / NAMES["climb_stairs"][1]
    first.with_suffix(".avi").unlink()
    small_video(first.with_suffix(".mp4"))
    (home / "videos/aaa").mkdir()  # would shift ids that come from a listing
    (home / "videos/climb.rar").write_bytes(b"Rar!")
    write_splits(home / "testTrainMulti_7030_splits")
    return home


def zipped(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


VIDEO, MKV, GONE = "_a-B_c-D_e0", "-mkvmkvmkv_", "gone_video1"


RATE = Fraction(30000, 1001)


JSON = {
    VIDEO: {
        "E_000001_000006": {
            "event": 1,
            "timestamps": [[1.04, 6.9]],
            "segments": {"A_0000_0002": {"stages": 3, "timestamps": [[0.1, 0.6], [0.6, 1.2], [1.2, 2.5]]}},
        },
        "E_000007_000009": {
            "event": 3,
            "timestamps": [[7.0, 9.0]],
            "segments": {
                "A_0000_0001": {"stages": 1, "timestamps": [[0.2, 1.0]]},
                "A_0001_0003": {
                    "stages": 1,
                    "timestamps": [[1.5, 3.2]],
                },  # after its event, and after the video
                "A_0000_0000": {"stages": 1, "timestamps": [[0.5, 0.54]]},  # one frame
                "A_0004_0008": {"stages": 1, "timestamps": [[4.0, 8.0]]},  # not in the video at all
            },
        },
        "E_000009_000010": {"event": 4, "timestamps": [[9.1, 10.0]], "segments": None},
    },
    MKV: {
        "E_000000_000001": {
            "event": 4,
            "timestamps": [[0.08, 1.6]],
            "segments": {"A_0000_0000": {"stages": 1, "timestamps": [[0.2, 0.8]]}},
        }
    },
    GONE: {
        "E_000100_000107": {
            "event": 1,
            "timestamps": [[100.5, 107.0]],
            "segments": {"A_0000_0001": {"stages": 1, "timestamps": [[0.2, 1.0]]}},
        }
    },
}


TRAIN = {
    f"{VIDEO}_E_000001_000006_A_0000_0002": 0,
    f"{VIDEO}_E_000007_000009_A_0001_0003": 70,
    f"{MKV}_E_000000_000001_A_0000_0000": 98,
    f"{GONE}_E_000100_000107_A_0000_0001": 5,
}


TEST = {
    f"{VIDEO}_E_000007_000009_A_0000_0001": 58,
    f"{VIDEO}_E_000007_000009_A_0000_0000": 41,
    f"{VIDEO}_E_000007_000009_A_0004_0008": 41,
    f"{VIDEO}_E_000009_000010_A_0000_0000": 85,
    f"{VIDEO}_E_000011_000012_A_0000_0000": 85,  # an event that the JSON does not have
}


def make_gym(home: Path) -> Path:
    (home / "videos").mkdir()
    videos.numbered_video(home / f"videos/{VIDEO}.mp4", 300, fps=RATE, b_frames=2)
    videos.numbered_video(home / f"videos/{MKV}.mkv", 40, fps=25)
    notes = home / "annotations"
    notes.mkdir()
    (notes / "gym99_train_element_v1.1.txt").write_text("".join(f"{e} {n}\n" for e, n in TRAIN.items()))
    crlf = "\r\n".join(f"{e} {n}" for e, n in TEST.items())
    (notes / "gym99_val_element.txt").write_bytes(crlf.encode())
    (notes / "finegym_annotation_info_v1.1.json").write_text(json.dumps(JSON))
    return home


def shown(start: float, end: float, fps: Fraction, frames: int) -> list[int]:
    """Frames whose times lie in a span."""
    return [i for i in range(frames) if Fraction(str(start)) <= i / fps < Fraction(str(end))]


SPANS = {  # absolute times, added up by hand
    f"{VIDEO}_E_000001_000006_A_0000_0002": shown(1.14, 3.54, RATE, 300),
    f"{VIDEO}_E_000007_000009_A_0001_0003": shown(8.5, 10.2, RATE, 300),
    f"{MKV}_E_000000_000001_A_0000_0000": shown(0.28, 0.88, Fraction(25), 40),
    f"{VIDEO}_E_000007_000009_A_0000_0001": shown(7.2, 8.0, RATE, 300),
    f"{VIDEO}_E_000007_000009_A_0000_0000": shown(7.5, 7.54, RATE, 300),
}


def lists_only(gym, folder: Path) -> Path:
    shutil.copytree(gym / "annotations", folder, ignore=shutil.ignore_patterns("*.json"))
    return folder


ATTRIBUTES = ("carrot", "cut apartV", "cutV", "cutting-board", "gatherV", "knife")


ROWS = (  # file, verb, first and last frame as annotated, objects
    ("s07-d72-cam-002", "cutV", 1, 20, ("carrot", "knife")),
    ("s07-d72-cam-002", "cut apartV", 11, 30, ("carrot",)),  # overlaps
    ("s07-d72-cam-002", "cut apartV", 11, 25, ()),  # file, verb and start again
    ("s07-d72-cam-002", "cut apartV", 11, 25, ()),  # and the end
    ("s07-d72-cam-002", "flipV", 5, 9, ()),  # not an attribute: dropped
    ("s07-d72-cam-002", "", 5, 9, ()),
    ("s21-d21-cam-002", "gatherV", 40, 60, ("cutting-board",)),
    ("s22-d23-cam-002", "cutV", 60, 60, ()),
    ("s22-d23-cam-002", "gatherV", 2, 61, ()),
    ("s28-d32-cam-002", "gatherV", 2, 4, ()),  # in no list
    ("s08-d02-cam-002", "gatherV", 2, 4, ()),  # no video
)


def matlab_file(path: Path, rows=ROWS, attributes=ATTRIBUTES) -> Path:
    """A MATLAB 7.3 file as MATLAB writes it: strings as references to arrays of code units."""
    import h5py

    with h5py.File(path, "w", userblock_size=512) as file:
        annos, strings = file.create_group("annos"), file.create_group("#refs#")

        def cells(name, texts):
            references = np.empty((len(texts), 1), h5py.ref_dtype)
            for i, text in enumerate(texts):
                units = np.frombuffer(text.encode("utf-16-le"), "<u2").reshape(-1, 1)
                if not text:
                    units = np.zeros(2, np.uint64)  # the size of an empty string
                made = strings.create_dataset(f"{name}{i}", data=units)
                made.attrs["MATLAB_class"] = np.bytes_("char")
                made.attrs["MATLAB_int_decode" if text else "MATLAB_empty"] = np.int32(2 if text else 1)
                references[i, 0] = made.ref
            annos.create_dataset(name, data=references).attrs["MATLAB_class"] = np.bytes_("cell")

        cells("fileName", [row[0] for row in rows])
        cells("activity", [row[1] for row in rows])
        cells("attributeMap", attributes)
        annos["startFrame"] = np.array([[float(row[2])] for row in rows])
        annos["endFrame"] = np.array([[float(row[3])] for row in rows])
        annos["iaMat"] = np.array([[float(a in (row[1], *row[4])) for row in rows] for a in attributes])
        annos["frameRate"] = np.array([[29.4]])
        annos["nImgsPerFile"] = np.array([[3707764736, 2, 1, 1, 1, 1]], np.uint32)
    with open(path, "r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")
    return path


def make_mpii(home: Path) -> Path:
    for name in ("s07-d72", "s21-d21", "s22-d23"):
        (home / "videos").mkdir(exist_ok=True)
        videos.numbered_video(
            home / f"videos/{name}-cam-002.avi", 60, fps=Fraction(147, 5), codec="mpeg4", crf=3
        )
    lists = home / "experimentalSetup/experimentalSetup"
    lists.mkdir(parents=True)
    (lists / "sequencesTrainAttr.txt").write_text("s07-d72\ns08-d02\n\n")
    (lists / "sequencesVal.txt").write_text("# one\r\ns21-d21\r\ns21-d60")
    (lists / "sequencesTest.txt").write_text("s22-d23 \n")
    matlab_file(home / "annos.mat")
    return home


def plan_cooking(mpii, **options):
    return plan_mpii(mpii / "videos", mpii / "annos.mat", mpii / "experimentalSetup", **options)
