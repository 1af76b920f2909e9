"""The summary at the top of the page: the best setting, its gain, whether that may be chance, and slope and shift.

Notes:
- a comparison is a dataset and a backbone, tested on equally many clips with the same views, so that quick checks do
  not compete with whole runs; a setting is what its runs with several seeds have in common;
- the best setting with prompts, controls apart, is compared with the network without them, or the best setting with
  the second best where there is no such pair. Both are taken on the clips and the seeds that they share, and the
  interval is over both (paired.py). One that is only level with the other is not called the best;
- a best setting is chosen among several on the clips that it is then judged by. Its interval is widened for that
  choice (Bonferroni): with k settings, 1 - 0.05 / k, from more draws, since its ends are rarer;
- fewer than MANY_SEEDS seeds say little of another seed, and the page says so.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean

from vmp.formats import format_number, format_signed
from vmp.paper.paired import Difference, difference
from vmp.report.entries import Entry
from vmp.report.tested import pair_up
from vmp.runs.folder import matters_but_for

# draws of the bootstrap: for each setting that competes, and in all
MANY_SEEDS, DRAWS, MOST_DRAWS = 3, 2000, 20_000


@dataclass
class Setting:
    """Finished runs that differ in their seed only, one of each seed. numbers: their places in the list of runs.
    again: how many others, such as copies, have the seed of one of them, and are left out."""

    name: str
    prompted: bool
    control: bool  # attention that cannot be had in use, or says nothing of the clip
    tag: str
    entries: list[Entry] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    again: int = 0

    @property
    def top1(self) -> float:
        """Mean over seeds, in percent."""
        return fmean(float(e.result["top1"]) for e in self.entries)

    @property
    def range(self) -> str:
        """Lowest and highest seed; empty for one."""
        found = [float(e.result["top1"]) for e in self.entries]
        return f"{min(found):.1f}–{max(found):.1f}" if len(found) > 1 else ""

    @property
    def top1_by_seed(self) -> dict[str, float]:
        return {str(e.config.get("seed")): float(e.result["top1"]) for e in self.entries}

    @property
    def by_seed(self) -> dict[str, Entry]:
        return {str(e.config.get("seed")): e for e in self.entries if e.tested}


@dataclass(frozen=True)
class Answer:
    """A comparison. tested: how its runs were tested, where other runs of the dataset and the backbone were tested
    otherwise. other: what the best setting is compared with. settings: how many compete to be the best.
    difference: of the best one minus the other one, where both have predictions for a seed and clips in common."""

    dataset: str
    backbone: str
    tested: str
    best: Setting
    other: Setting | None
    settings: int
    difference: Difference | None

    @property
    def gain(self) -> float | None:
        """In percentage points of top-1, on the clips and seeds in common where these are known."""
        if self.difference:
            return self.difference.mean
        return self.best.top1 - self.other.top1 if self.other else None

    @property
    def against_plain(self) -> bool:
        """Whether prompts are compared with no prompts."""
        return bool(self.best.prompted and self.other and not self.other.prompted)

    @property
    def is_level(self) -> bool:
        """Whether the gain is 0 as it is printed."""
        return self.gain is not None and f"{abs(self.gain):.1f}" == "0.0"

    @property
    def verdict(self) -> str:
        """Whether the gain is noise, in a few words."""
        if not self.other:
            return "nothing to compare with"
        if self.is_level:
            return "level"
        if not self.difference:
            return "unknown: no common clips and seeds"
        if not self.difference.is_clear:
            return "may be noise"
        seeds = self.difference.seeds
        if seeds < MANY_SEEDS:
            return f"real on these clips, but {seeds} seed{'s' * (seeds > 1)}"
        return "more than noise"

    @property
    def kind(self) -> str:
        """better, worse or open, for a colour and for counting."""
        if self.verdict != "more than noise" or self.gain is None:
            return "open"
        return "better" if self.gain > 0 else "worse"

    @property
    def scalars(self) -> list[list[str]]:
        """For each pathway its name and texts: where slope and shift of the best setting started and ended, as means
        over its seeds, and the attention that they give a pixel that does not change."""
        lines: list[list[str]] = []
        v = self.best.entries[0].config["vmp"]
        if v.get("kind") != "learned" or v.get("form", "pixel") != "pixel":
            return lines  # slope and shift are not those of Eq. 3, or do not act on single pixels
        starts = [_starts(e) for e in self.best.entries]
        for pathway in self.best.entries[0].scalars("slope"):
            ends = [[e.scalars(name).get(pathway) for name in ("slope", "shift")] for e in self.best.entries]
            end = [fmean(v for v in values if v is not None) for values in zip(*ends, strict=True)]
            own = [start[pathway] for start in starts if pathway in start]
            begin = [fmean(values) for values in zip(*own, strict=True)] if own else None
            lines.append(["" if pathway == "video" else pathway, *_describe_scalars(begin, end)])
        return lines


def find_answers(entries: Sequence[Entry]) -> list[Answer]:
    """One for each dataset and backbone with a finished run: those that noise does not explain first."""
    groups: dict[tuple[str, str, str], dict[str, Setting]] = {}
    for number, e in enumerate(entries):
        if not e.result:
            continue
        key = (e.dataset, e.backbone, _how_tested(e))
        setting = Setting(_name(e), e.weight is not None, _is_control(e), e.tag)
        setting = groups.setdefault(key, {}).setdefault(_but_for_its_seed(e), setting)
        if str(e.config.get("seed")) in setting.top1_by_seed:
            setting.again += 1
            continue
        setting.entries.append(e)
        setting.numbers.append(number)
    for settings in groups.values():
        named = Counter((one.name, one.tag) for one in settings.values())
        for one in settings.values():
            # they differ in something else, which their folders' names may say
            if named[one.name, one.tag] > 1:
                one.name += f" ({one.entries[0].run.folder.parent.name})"
    ways = Counter(key[:2] for key in groups)
    found = [
        _compare(dataset, backbone, how if ways[dataset, backbone] > 1 else "", list(settings.values()))
        for (dataset, backbone, how), settings in groups.items()
    ]
    return sorted(found, key=lambda a: (a.kind == "open", -a.settings, a.dataset, a.backbone))


def _how_tested(e: Entry) -> str:
    """The clips of the final test and their views: runs for which these differ cannot be compared."""
    views = "x".join(map(str, e.result.get("views", [])))
    parts = [
        f"{e.counts.get('expected', 0):,} clips of {e.result['split']}",
        f"views {views}" if views else "",
        str(e.result.get("reduce") or ""),
        str(e.result.get("degrade") or ""),
    ]
    return ", ".join(filter(None, parts))


def _name(e: Entry) -> str:
    name = "without prompts" if e.weight is None else f"{e.method}, λ {e.weight:g}"
    return name + (f", {e.placement} pathway{'s' * (e.placement == 'both')}" if e.placement else "")


def _but_for_its_seed(e: Entry) -> str:
    """The config without what differs between seeds and machines."""
    return matters_but_for(e.config, "seed").replace(f"/seed{e.config.get('seed')}", "/seed")


def _compare(dataset: str, backbone: str, tested: str, settings: list[Setting]) -> Answer:
    ranked = _rank(settings)
    prompted = [s for s in ranked if s.prompted and not s.control]
    plain = [s for s in ranked if not s.prompted]
    other: Setting | None
    if prompted and plain:
        best = prompted[0]
        other = next((s for s in plain if s.tag == best.tag), plain[0])
        rivals = len(prompted)
    else:
        best, other = ranked[0], ranked[1] if len(ranked) > 1 else None
        rivals = len(ranked) * (len(ranked) - 1) // 2  # pairs
    found = _difference(best, other, max(1, rivals))
    return Answer(dataset, backbone, tested, best, other, len(settings), found)


def _rank(settings: list[Setting]) -> list[Setting]:
    """The best first, by top-1. A setting that lacks seeds is judged by its difference to the setting with the most,
    where possible one without prompts, on the seeds of both: an easy seed alone wins nothing."""
    reference = max(settings, key=lambda s: (not s.prompted, len(s.entries), s.top1))
    base = reference.top1_by_seed

    def top1(one: Setting) -> float:
        found = one.top1_by_seed
        gains = [found[seed] - base[seed] for seed in found if seed in base]
        return round(reference.top1 + fmean(gains), 9) if gains else one.top1

    return sorted(settings, key=lambda s: (-top1(s), s.name))


def _is_control(entry: Entry) -> bool:
    v = entry.config["vmp"]
    return v.get("kind") in ("constant", "oracle") or v.get("attention_from") == "other_clip"


def _difference(best: Setting, other: Setting | None, rivals: int) -> Difference | None:
    mine, theirs = best.by_seed, other.by_seed if other else {}
    seeds = [seed for seed in mine if seed in theirs]
    tested = [of[seed].tested for of in (mine, theirs) for seed in seeds]
    right = pair_up([one for one in tested if one]) if seeds else None  # (2 seeds, clips)
    if right is None or not right.size:
        return None
    return difference(
        right[: len(seeds)],
        right[len(seeds) :],
        level=1 - 0.05 / rivals,
        draws=min(DRAWS * rivals, MOST_DRAWS),
    )


def _starts(entry: Entry) -> dict[str, tuple[float, float]]:
    """Pathway -> slope and shift before training; empty for runs that did not log it."""
    first = {(c["pathway"], c["what"]): c["points"][0] for c in entry.curves if c["points"]}
    pathways = {pathway for pathway, what in first if what == "slope" and (pathway, "shift") in first}
    return {
        pathway or "video": (first[pathway, "slope"][1], first[pathway, "shift"][1])
        for pathway in pathways
        if first[pathway, "slope"][0] == 0
    }


def _describe_scalars(begin: Sequence[float] | None, end: Sequence[float]) -> list[str]:
    pairs = [begin, end] if begin else [end]
    slopes, shifts = ([pair[place] for pair in pairs] for place in (0, 1))
    arrow = " → ".join
    return [
        f"slope {arrow(format_number(slope, '.2f') for slope in slopes)}",
        f"shift {arrow(format_signed(shift, 3) for shift in shifts)}",
        f"still pixel {arrow(f'{1 / (1 + math.exp(min(700.0, a * b))):.2f}' for a, b in pairs)}",  # Eq. 3 at D = 0
    ]


def summarize(answers: Sequence[Answer]) -> str:
    """The answer in two sentences."""
    compared = [a for a in answers if a.other and a.gain is not None]
    if not compared:
        return "Nothing can be compared yet: each dataset and backbone has finished runs of one setting only."
    if len(compared) == 1:
        a = compared[0]
        assert a.other
        assert a.gain is not None
        interval = (
            f" (interval {format_signed(a.difference.low)} to {format_signed(a.difference.high)})"
            if a.difference
            else ""
        )
        where = f"on {a.dataset} with {a.backbone}"
        if a.is_level:
            return (
                f"No setting is shown to be the best {where}: {a.best.name} has top-1 {a.best.top1:.1f} %, level with "
                f"{'' if a.other.prompted else 'the network '}{a.other.name}{interval}."
            )
        best = "The best setting with prompts" if a.against_plain and a.gain < 0 else "The best setting"
        return (
            f"{best} {where} is {a.best.name}: top-1 {a.best.top1:.1f} %, {abs(a.gain):.1f} points "
            f"{'above' if a.gain > 0 else 'below'} {a.other.name}{interval}. "
            f"Is it noise? {a.verdict.capitalize()}."
        )
    found = [a.kind for a in compared if a.against_plain]
    return (
        f"Prompts were compared with the same network without them for {len(found)} pair{'s' * (len(found) != 1)} of "
        f"dataset and backbone. By more than noise, the best prompts are better in {found.count('better')} of them and "
        f"worse in {found.count('worse')}; in {found.count('open')} the difference may be noise, or has too few seeds."
    )
