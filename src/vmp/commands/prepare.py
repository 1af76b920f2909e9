"""Make the manifests of a published dataset from its videos and annotations, or check manifests.

examples:
  vmp prepare hmdb51 --videos hmdb51_org --splits testTrainMulti_7030_splits
  vmp prepare hmdb51 --videos hmdb51_org.rar --splits test_train_splits.rar
  vmp prepare hmdb51 --download
  vmp prepare finegym --videos videos --annotations annotations --cut --dry-run
  vmp prepare finegym --videos subactions --annotations annotations --allow-missing
  vmp prepare mpii_cooking2 --videos videos --splits experimentalSetup \\
      --mat attributesAnnotations_MPII-Cooking-2.mat --cut --short-side 320
  vmp prepare kinetics400 --videos k400 --annotations kinetics400 --allow-missing
  vmp prepare ucf101 --videos UCF101.rar --annotations UCF101TrainTestSplits-RecognitionTask.zip
  vmp prepare ssv2 --videos 20bn-something-something-v2 --annotations labels
  vmp prepare handwash12 --videos handwash12 --cut --short-side 128
  vmp prepare verify data/hmdb51/split1/test.csv
  vmp prepare verify data/hmdb51 --reader torchcodec_cuda --workers 4

Train on a prepared dataset with dataset=hmdb51, dataset=finegym and so on. Your own clips need no preparation
(dataset=folders). The videos are not changed; --cut encodes each clip as a small file of its own. If a file is missing
or a count differs from the published one, nothing is written and the exit code is 2, unless --allow-missing is given.
The same command continues an interrupted one. --download fetches what no other option names: the archives of HMDB-51,
UCF-101 and MPII Cooking 2, FineGym's annotations, and its videos if yt-dlp is installed.
"""

import argparse
import dataclasses
import math
from pathlib import Path

from vmp.cli import check_fps, parser_of
from vmp.data.decode import OPTIONAL
from vmp.data.times import CLOCKS
from vmp.errors import ConfigError, DataError, shortlist
from vmp.prepare.children import TIMEOUT
from vmp.prepare.fetch import LICENCES, SOURCES, fetch, fetch_videos
from vmp.prepare.finegym import plan_finegym, read_videos
from vmp.prepare.hmdb51 import plan_hmdb51
from vmp.prepare.mpii import PAGE, plan_mpii
from vmp.prepare.official import OFFICIAL, plan_official
from vmp.prepare.published import COLLECTIONS, plan_collection
from vmp.prepare.splits import PARTS
from vmp.prepare.unpack import is_archive, unpack
from vmp.prepare.videos import find_videos

SHORT_SIDE = 320  # pixels


def main() -> None:
    options = _parser().parse_args()
    if not 0 <= options.timeout < math.inf:
        raise ConfigError(f"--timeout {options.timeout:g}: must be a number of seconds, or 0 for no limit")
    if options.workers is not None and options.workers < 1:
        raise ConfigError(f"--workers {options.workers}: must be 1 or more")
    if options.dataset == "verify":
        verify(options)
    else:
        prepare(options)


def prepare(options: argparse.Namespace) -> None:
    """Prepare a dataset; print what was found and what was written. Raises UserError."""
    from vmp.prepare.dataset import prepare

    if options.short_side is not None and options.how != "cut":
        raise ConfigError(
            f"--short-side {options.short_side}: only clips that are cut are made smaller; add --cut, or leave it out"
        )
    if options.short_side and (options.short_side < 16 or options.short_side % 2):
        raise ConfigError(
            f"--short-side {options.short_side}: must be even and at least 16, or 0 for the size of the source"
        )
    out: Path = options.out or Path("data") / options.dataset
    check_fps(options.fps)
    done = prepare(
        dataclasses.replace(_plan(options, out), fps=options.fps),
        out,
        how=options.how or "in place",
        long_in_place=options.how == "in place",
        short_side=SHORT_SIDE if options.short_side is None else options.short_side or None,
        allow_missing=options.allow_missing,
        dry_run=options.dry_run,
        histogram=options.histogram,
        workers=options.workers,
        timeout=options.timeout,
    )
    print(done.text)
    if done.failed and not options.allow_missing:
        failed = shortlist([check.name for check in done.failed])
        raise DataError(
            f"{len(done.failed)} check(s) failed and no manifest was written:\n{failed}\nCorrect this, or add "
            "--allow-missing to continue with the clips that were found; every result states the counts."
        )
    if options.dry_run:
        print("a dry run: nothing was written")
    for path in done.written:
        print(f"wrote {path}")


def verify(options: argparse.Namespace) -> None:
    """Check the files behind manifests; DataError where one does not fit its files."""
    from vmp.prepare.verify import verify

    faulty, untried = [], []
    for path in options.manifests:
        for manifest in _manifests_under(path):
            work = {"workers": options.workers, "timeout": options.timeout}
            verified = verify(manifest, root=options.root, readers=options.reader or (), **work)
            counts = ", ".join(f"{count:,} {status}" for status, count in verified.counts.items())
            print(f"{manifest}: {counts}")
            for name, clips in verified.exact.items():
                print(f"  {name} is exact for {clips:,} of {verified.counts['ok']:,} usable clips")
            if verified.untried:
                lines = [f"{path}: {why}" for path, why in verified.untried.items()]
                print(f"  {len(lines)} files could not be tried on the GPU:\n{shortlist(lines)}")
                untried.append(str(manifest))
            if not verified.ok:
                faulty.append(str(manifest))
                print(shortlist([f"{p.id} ({p.path}): {p.problem}" for p in verified.problems], 20))
    if faulty:
        raise DataError(
            f"{len(faulty)} manifest(s) did not fit their files:\n{shortlist(faulty)}\nRows that cannot be used are "
            "now marked in them and listed in quarantine.csv beside them. Repair the files and prepare again."
        )
    if untried:
        raise DataError(
            f"the GPU failed on files of {len(untried)} manifest(s):\n{shortlist(untried)}\nThe same command tries "
            "again; with fewer --workers it needs less of the GPU's memory."
        )


def _manifests_under(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = [file for name in PARTS for file in sorted(path.rglob(f"{name}.csv"))]
    if not found:
        raise ConfigError(
            f"{path}: holds no train.csv, val.csv or test.csv, at any depth; name a manifest, or a folder of some, "
            "such as a preparation's --out"
        )
    return found


def _plan(options: argparse.Namespace, out: Path):  # type: ignore[no-untyped-def]
    if getattr(options, "download", False):
        _download(options, out)
    if options.videos is None:
        how = ", or --download to fetch them" if options.dataset in SOURCES else ""
        raise ConfigError(f"{options.dataset}: needs --videos, the folder of the videos{how}")
    if options.dataset == "hmdb51":
        videos, splits = _unpacked(options.videos, out / "videos", options), options.splits
        return plan_hmdb51(videos, splits and _unpacked(splits, out / "splits", options))
    if options.dataset == "finegym":
        annotations, allow_missing = options.annotations or options.videos, options.allow_missing
        plan = plan_finegym(options.videos, annotations, times=options.times, allow_missing=allow_missing)
        return dataclasses.replace(plan, clock=options.clock)
    if options.dataset in OFFICIAL:
        videos, lists = _unpacked(options.videos, out / "videos", options), options.annotations
        lists = _unpacked(lists, out / "annotations", options) if lists else videos
        return plan_official(options.dataset, videos, lists)
    if options.dataset in COLLECTIONS:
        return plan_collection(options.dataset, options.videos, options.csv)

    if not options.mat or not options.splits:
        lacking = "--splits, the folder experimentalSetup" if options.mat else "--mat, the annotations"
        raise ConfigError(f"mpii_cooking2: needs {lacking} of {PAGE}")
    choices = {"frame_base": options.frame_base, "train_on_val": options.train_on_val}
    videos = _unpacked(options.videos, out / "videos", options)
    return plan_mpii(videos, options.mat, options.splits, **choices)


def _download(options: argparse.Namespace, out: Path) -> None:
    """Fetch what the options of a dataset do not name, and name it."""

    if options.dry_run:
        raise ConfigError("--dry-run: fetches nothing; leave out --download, or --dry-run")
    lacking = [s for s in SOURCES[options.dataset] if getattr(options, s.option) is None]
    print(f"{options.dataset}: licence {LICENCES[options.dataset]}", flush=True)
    for source in lacking:
        path = fetch(source, out / "downloads")
        # FineGym's annotations are several files
        setattr(options, source.option, path.parent if options.dataset == "finegym" else path)
    if options.dataset == "finegym" and options.videos is None:
        options.videos = out / "videos"
        fetch_videos(read_videos(options.annotations), options.videos)


def _unpacked(source: Path, target: Path, options: argparse.Namespace) -> Path:
    """A folder as it is; an archive, or a folder of archives without videos, unpacked."""

    packed = is_archive(source) or (
        source.is_dir() and any(map(is_archive, source.iterdir())) and not find_videos(source)
    )
    if not packed or not source.exists():
        return source
    if options.dry_run and not target.is_dir():
        raise ConfigError(
            f"{source}: is an archive, and a dry run unpacks nothing. Run it once without --dry-run"
        )
    return target if options.dry_run else unpack(source, target)


def _parser() -> argparse.ArgumentParser:
    parser = parser_of(__doc__)
    datasets = parser.add_subparsers(dest="dataset", required=True, metavar="DATASET")
    common = [_common_options()]
    _add_hmdb51(datasets.add_parser("hmdb51", parents=common, help="HMDB-51: 51 classes, three splits"))
    _add_finegym(datasets.add_parser("finegym", parents=common, help="FineGym, Gym99 v1.1"))
    _add_mpii(datasets.add_parser("mpii_cooking2", parents=common, help="MPII Cooking 2, 67 verbs"))
    for name, collection in COLLECTIONS.items():
        one = datasets.add_parser(name, parents=common, help=collection.about)
        table = "columns path,label and optionally group,split (default: VIDEOS/clips.csv, if it exists)"
        one.add_argument("--csv", type=Path, help=table)
        _add_where_clips_are(one)
    for name, official in OFFICIAL.items():
        one = datasets.add_parser(name, parents=common, help=official.about)
        one.add_argument("--annotations", type=Path, help="folder of the official lists (default: VIDEOS)")
        _add_where_clips_are(one)
    for name in SOURCES:
        what = "download what no other option names to OUT/downloads; needs a network and disk space"
        datasets.choices[name].add_argument("--download", action="store_true", help=what)
    _add_verify(datasets.add_parser("verify", help="check the files behind manifests"))
    return parser


def _common_options() -> argparse.ArgumentParser:
    """The options of every dataset."""
    common = argparse.ArgumentParser(add_help=False)
    add = common.add_argument
    add("--videos", type=Path, help="folder with the videos or frame folders, at any depth")
    add("--out", type=Path, help="folder for the manifests (default: data/DATASET)")
    add("--allow-missing", action="store_true", help="write manifests even if a check failed")
    side = f"short side of clips that --cut makes; 0: as in the source (default: {SHORT_SIDE})"
    add("--short-side", type=int, help=side)
    add("--fps", type=float, default=0.0, help="frame rate of frame folders, which do not record it")
    add("--dry-run", action="store_true", help="print what would be done; write nothing")
    add("--histogram", action="store_true", help="print the number of clips of each class")
    _add_work(common)
    return common


def _add_work(parser: argparse.ArgumentParser) -> None:
    """Add the options of everything that runs in child processes."""
    workers = "number of processes (default: one per available CPU)"
    timeout = f"seconds without progress before a process counts as hung; 0: never (default: {TIMEOUT:.0f})"
    parser.add_argument("--workers", type=int, help=workers)
    parser.add_argument("--timeout", type=float, default=TIMEOUT, help=timeout)


def _add_hmdb51(parser: argparse.ArgumentParser) -> None:
    splits = "folder of the 153 split files (default: under or beside VIDEOS)"
    parser.add_argument("--splits", type=Path, help=splits)
    remux = (
        "rewrite clips losslessly to OUT/clips, so that every reader is exact; where this fails, link them"
    )
    where = _add_where_clips_are(parser)
    where.add_argument("--remux", dest="how", action="store_const", const="remux", help=remux)


def _add_finegym(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--annotations", type=Path, help="folder of lists and JSON (default: VIDEOS)")
    add("--times", type=Path, help="CSV id,start,end in seconds, instead of the JSON")
    clock = "where second 0 is: at 0 of the file's clock, as in players (default), or at its first frame"
    add("--clock", choices=CLOCKS, default="file", help=clock)
    _add_where_clips_are(parser)


def _add_mpii(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--mat", type=Path, help="attributesAnnotations_MPII-Cooking-2.mat")
    add("--splits", type=Path, help="the folder experimentalSetup")
    base = "number of the first frame in the annotations; 0 shifts clips by one frame, as the authors' script does"
    add("--frame-base", type=int, choices=(0, 1), default=1, help=base)
    add("--train-on-val", action="store_true", help="train on the validation subject, too")
    _add_where_clips_are(parser)


def _add_verify(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("manifests", type=Path, nargs="+", help="manifests, or folders that contain some")
    root = "folder of the videos (default: the one recorded beside the manifest)"
    add("--root", type=Path, help=root)
    reader = "also measure this reader, and list it for files that it reads exactly; torchcodec_cuda decodes on a GPU"
    add("--reader", action="append", choices=OPTIONAL, help=reader)
    _add_work(parser)


def _add_where_clips_are(parser: argparse.ArgumentParser):  # type: ignore[no-untyped-def]
    """Add the options that exclude each other."""
    group = parser.add_mutually_exclusive_group()
    add = group.add_argument
    in_place = (
        "leave the videos where they are, even those longer than half an hour (default: these are refused)"
    )
    add("--in-place", dest="how", action="store_const", const="in place", help=in_place)
    cut = "encode every clip as a small file in OUT/clips"
    add("--cut", dest="how", action="store_const", const="cut", help=cut)
    return group
