"""A study's results: tables of arms by set, and a picture of the differences with their intervals."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vmp.figures.canvas import COLORS, GREY, figure, save, style
from vmp.formats import format_duration, markdown_table
from vmp.paper.paired import (
    Difference,
    Interval,
    Pairs,
    by_class,
    choose_settings,
    detectable,
    difference,
    mean_difference,
)
from vmp.paper.study import Study

Row = Mapping[str, str]
COLUMNS = (
    *(
        "arm",
        "top-1",
        "clips x seeds",
        "spread over seeds",
        "difference, 95 % interval",
        "right only in this arm / only in the other",
    ),
    *("slope", "shift"),
)


@dataclass(frozen=True)
class ArmScores:
    """Which clips of a set an arm gets right, with the setting that cross-fitting chose for each part.

    right: (S, N) bool. ids: (N,) pairs of fold and clip, since several folds may test a clip. groups, labels, folds:
    (N,). seeds: (S,). settings: how many parts took each setting.
    """

    right: np.ndarray
    ids: Sequence[tuple[int, str]]
    groups: np.ndarray
    labels: np.ndarray
    folds: np.ndarray
    seeds: tuple[int, ...]
    settings: dict[str, int]

    @property
    def top1(self) -> float:
        return 100 * float(self.right.mean())

    @property
    def spread(self) -> float | None:
        """Standard deviation of top-1 over seeds, in points; None of a single seed."""
        return float(np.std(100 * self.right.mean(axis=1), ddof=1)) if len(self.seeds) > 1 else None

    def on(self, other: "ArmScores") -> tuple[Pairs, np.ndarray] | None:
        """On the seeds and clips that both have, with the clips' labels (N,); None if there are none."""
        seeds = [seed for seed in self.seeds if seed in other.seeds]
        place = {name: i for i, name in enumerate(other.ids)}
        mine = [i for i, name in enumerate(self.ids) if name in place]
        theirs = [place[self.ids[i]] for i in mine]
        a = self.right[[self.seeds.index(s) for s in seeds]][:, mine]
        b = other.right[[other.seeds.index(s) for s in seeds]][:, theirs]
        return (Pairs(a, b, self.groups[mine]), self.labels[mine]) if a.size else None


def collect(study: Study, clips: Iterable[Row]) -> dict[str, dict[str, ArmScores]]:
    """Set -> arm -> scores, of the seeds and settings that cover the same clips.

    A clip counts in each fold that tests it, if every seed of the arm has it there; a seed counts if no other seed of
    the arm has more clips, and only the first of those that have none in common; a setting counts if it has every seed
    and clip of the default one.
    """
    found: dict[tuple[str, str], dict[tuple[str, int], dict[tuple[int, str], Row]]] = defaultdict(
        lambda: defaultdict(dict)
    )
    for row in clips:
        run = row["setting"], int(row["seed"])
        found[row["set"], row["arm"]][run][int(row["fold"]), row["id"]] = row
    out: dict[str, dict[str, ArmScores]] = {name: {} for name in study.sets}
    for (chosen, arm), by_run in found.items():
        scores = _scores(study, by_run)
        if scores is not None and chosen in out and arm in study.arms:
            out[chosen][arm] = scores
    return out


def _scores(
    study: Study, by_run: Mapping[tuple[str, int], Mapping[tuple[int, str], Row]]
) -> ArmScores | None:
    default = study.default_setting
    base = {seed: rows for (setting, seed), rows in by_run.items() if setting == default}
    if not base:
        return None
    most = max(len(rows) for rows in base.values())
    seeds = tuple(sorted(seed for seed, rows in base.items() if len(rows) == most))
    ids = sorted(set.intersection(*(set(base[seed]) for seed in seeds)))
    if not ids:  # each seed has finished other folds
        seeds = seeds[:1]
        ids = sorted(base[seeds[0]])
    right: dict[str, np.ndarray] = {}
    for setting in study.settings:
        runs = [by_run.get((setting, seed), {}) for seed in seeds]
        if all(set(ids) <= set(rows) for rows in runs):
            right[setting] = np.array(
                [[rows[i]["class"] == rows[i]["predicted"] for i in ids] for rows in runs]
            )
    first = base[seeds[0]]
    folds = np.array([fold for fold, _ in ids])
    groups, labels = (np.array([first[i][column] for i in ids]) for column in ("group", "class"))
    chosen, settings = choose_settings(right, folds, groups, default=default)
    return ArmScores(chosen, ids, groups, labels, folds, seeds, settings)


@dataclass(frozen=True)
class Gains:
    """Differences of arms to the arms that they are compared with, with their bootstrapped intervals.

    by_set: set -> arm -> difference. over_sets: arm -> mean difference, of arms that were run in more than one set.
    """

    by_set: dict[str, dict[str, Difference]]
    over_sets: dict[str, Interval]


def compare_arms(study: Study, found: Mapping[str, Mapping[str, ArmScores]]) -> Gains:
    by_set = {
        chosen: {arm: one for arm, of in study.arms.items() if (one := compare(arms, arm, of.compared_with))}
        for chosen, arms in found.items()
    }
    means = {arm: mean_difference([*pairs.values()]) for arm, pairs in _over_sets(study, found).items()}
    return Gains(by_set, means)


# --- text ----------------------------------------------------------------------------------------------------------


def to_markdown(
    study: Study,
    found: Mapping[str, Mapping[str, ArmScores]],
    gains: Gains,
    runs: Sequence[Row],
    *,
    command: str,
) -> str:
    lines = [
        f"# {study.title}",
        "",
        study.note,
        "",
        f"The last command that wrote this page: `{command}`",
        "",
    ]
    for chosen, of_set in study.sets.items():
        arms = found.get(chosen, {})
        lines += [f"## {of_set.label}", ""]
        if not arms:
            lines += ["Not run.", ""]
            continue
        lines += _detectable_lines(study, arms)
        searched = any(len(scores.settings) > 1 for scores in arms.values())
        lines += _settings_lines(study, arms) if searched else []
        asked = [arm for arm in study.arms if arm in arms or not study.arms[arm].group]
        own = gains.by_set[chosen]
        rows, head = [_arm_row(study, chosen, arm, arms, own, runs) for arm in asked], list(COLUMNS)
        if searched:
            head.append("parts judged by a setting")
            for arm, row in zip(asked, rows, strict=True):
                row.append(_parts_by_setting(arms[arm]) if arm in arms else "")
        if second := study.second_reference:
            head.append(f"difference to: {study.arms[second].label}")
            for arm, row in zip(asked, rows, strict=True):
                other = arm not in (second, study.arms[second].compared_with)
                compared = compare(arms, arm, second) if other else None
                row.append(describe(compared) if compared else "")
        lines += [*markdown_table(head, rows, labels=len(head)), ""]
        lines += _class_lines(study, arms)
    lines += _mean_lines(study, found, gains)
    lines += _provenance_lines(study, runs)
    return "\n".join(lines) + "\n"


def _arm_row(
    study: Study,
    chosen: str,
    arm: str,
    arms: Mapping[str, ArmScores],
    gains: Mapping[str, Difference],
    runs: Sequence[Row],
) -> list[str]:
    label = name_compared(study, arm)
    if arm not in arms:
        return [label, "not run", *[""] * (len(COLUMNS) - 2)]
    scores, compared = arms[arm], gains.get(arm)
    cells = [label, f"{scores.top1:.1f}", f"{len(scores.ids)} x {len(scores.seeds)}"]
    cells.append("" if scores.spread is None else f"{scores.spread:.1f}")
    cells += [describe(compared), f"{compared.fixed} / {compared.broken}"] if compared else ["", ""]
    mine = [
        row
        for row in runs
        if (row["set"], row["arm"], row["setting"]) == (chosen, arm, study.default_setting)
        and int(row["seed"]) in scores.seeds
    ]
    for name in ("slope", "shift"):
        cells.append(_mean_and_range([float(row[name]) for row in mine if row[name]]))
    return cells


def name_compared(study: Study, arm: str) -> str:
    """An arm's label and, where its gain is not measured from the first arm, that of its reference."""
    label, reference = study.arms[arm].label, study.arms[arm].compared_with
    if reference is None or reference == next(iter(study.arms)):
        return label
    return f"{label} (compared with: {study.arms[reference].label})"


def _parts_by_setting(scores: ArmScores) -> str:
    return ", ".join(f"{setting} {parts}" for setting, parts in scores.settings.items() if parts)


def _pairs(arms: Mapping[str, ArmScores], arm: str, reference: str | None) -> tuple[Pairs, np.ndarray] | None:
    """An arm with its reference, and the clips' labels; None without one, or where they have nothing in common."""
    return arms[arm].on(arms[reference]) if reference and reference in arms and arm in arms else None


def compare(arms: Mapping[str, ArmScores], arm: str, reference: str | None) -> Difference | None:
    found = _pairs(arms, arm, reference)
    return difference(*found[0]) if found else None


def describe(d: Difference) -> str:
    return f"{_interval_text(d)} on {d.clips} x {d.seeds}"


def _interval_text(found: Interval) -> str:
    text = f"{found.mean:+z.1f} [{found.low:+z.1f}, {found.high:+z.1f}]"
    return f"**{text}**" if found.is_clear else text


def _mean_lines(study: Study, found: Mapping[str, Mapping[str, ArmScores]], gains: Gains) -> list[str]:
    """A table of each arm's mean difference over the sets in which it was run, for arms with more than one."""
    over_sets = _over_sets(study, found)
    if not over_sets:
        return []
    head = ["arm", "difference, 95 % interval", "tests (clips x seeds)", "sets"]
    rows = [
        [
            name_compared(study, arm),
            _interval_text(gains.over_sets[arm]),
            f"{sum(both.arm.size for both in pairs.values())}",
            _which(study, found, pairs),
        ]
        for arm, pairs in over_sets.items()
    ]
    if second := study.second_reference:
        head.append(f"difference to: {study.arms[second].label}")
        to_second = _over_sets(study, found, reference=second)
        for row, arm in zip(rows, over_sets, strict=True):
            pairs = to_second.get(arm, {}) if study.arms[arm].compared_with != second else {}
            cell = _interval_text(mean_difference(list(pairs.values()))) if pairs else ""
            fewer = bool(pairs) and pairs.keys() != over_sets[arm].keys()
            row.append(f"{cell} over {_which(study, found, pairs)}" if fewer else cell)
    text = "The mean of the differences above, each set with the same weight, and its interval over clips and seeds."
    return ["## All sets", "", text, "", *markdown_table(head, rows, labels=len(head)), ""]


def _which(study: Study, found: Mapping[str, Mapping[str, ArmScores]], sets: Collection[str]) -> str:
    """The labels of sets, or their number if they are all that were run."""
    if len(sets) > 2 and len(sets) == sum(bool(arms) for arms in found.values()):
        return f"all {len(sets)}"
    return "; ".join(study.sets[chosen].label for chosen in sets)


def _over_sets(
    study: Study, found: Mapping[str, Mapping[str, ArmScores]], *, reference: str | None = None
) -> dict[str, dict[str, Pairs]]:
    """Arm -> set -> the arm and its reference there, of arms that were run in more than one set. reference: in place of
    the arms' own; it is not compared with itself."""
    both = {
        arm: {
            chosen: pairs[0]
            for chosen, arms in found.items()
            if (pairs := _pairs(arms, arm, reference or of.compared_with))
        }
        for arm, of in study.arms.items()
        if arm != reference
    }
    return {arm: by_set for arm, by_set in both.items() if len(by_set) > 1}


def _detectable_lines(study: Study, arms: Mapping[str, ArmScores]) -> list[str]:
    reference = arms.get(next(iter(study.arms)))
    if reference is None:
        return []
    if len(set(reference.groups)) == 1:
        return [
            "All clips so far are of one scene, recording or sequence, which does not show how these differ: an "
            "interval is everything that is possible, and no difference can be detected.",
            "",
        ]
    seen = detectable(reference.right, reference.groups)
    if seen is None:
        return ["The baseline has one seed, which does not show what difference could be detected.", ""]
    three = f" (with three seeds {detectable(reference.right, reference.groups, seeds=3):.1f})"
    return [
        f"Given the baseline's spread over {len(reference.seeds)} seeds and over clips, a comparison detects "
        f"{seen:.1f} points with a probability of 80 %{three if len(reference.seeds) != 3 else ''}.",
        "",
    ]


def _settings_lines(study: Study, arms: Mapping[str, ArmScores]) -> list[str]:
    """For a set with arms that were run at several settings: how one was chosen, and what is not of the chosen one."""
    single = len({fold for scores in arms.values() for fold in scores.folds.tolist()}) == 1
    one, other = ("half of the clips", "the other half") if single else ("fold", "the other folds")
    tried = {name for scores in arms.values() for name in scores.settings}
    names = ", ".join(name for name in study.settings if name in tried)
    return [
        f"Run at the settings {names}: each {one} is judged by the setting that is best on {other}. Slope and shift "
        f"are those of {study.default_setting}. The intervals take the choice as given.",
        "",
    ]


def _class_lines(study: Study, arms: Mapping[str, ArmScores]) -> list[str]:
    changed = {
        arm: by_class(both[0].arm, both[0].reference, both[1])
        for arm in study.arms
        if (both := _pairs(arms, arm, study.arms[arm].compared_with))
    }
    if not changed:
        return []
    classes = sorted({name for change in changed.values() for name in change})
    rows = [
        [name, *(f"{change[name]:+z.0f}" if name in change else "" for change in changed.values())]
        for name in classes
    ]
    head = ["class", *(name_compared(study, arm) for arm in changed)]
    return ["Change by class, in points:", "", *markdown_table(head, rows), ""]


def _mean_and_range(values: Sequence[float]) -> str:
    if not values:
        return ""
    return f"{np.mean(values):z.2f} ({min(values):z.2f} to {max(values):z.2f})"


def _provenance_lines(study: Study, runs: Sequence[Row]) -> list[str]:
    total = sum(float(row["seconds"]) for row in runs)
    commits = sorted({row["commit"][:12] for row in runs if row["commit"]})
    devices = sorted({row["device"] for row in runs})
    settings = sorted({row["setting"] for row in runs})
    return [
        "## How it was measured",
        "",
        f"{len(runs)} runs, {format_duration(total)} of training in all, {total / max(1, len(runs)):.0f} s per run, "
        f"on {', '.join(devices) or 'nothing yet'}; commits {', '.join(commits) or 'none'}; settings "
        f"{', '.join(settings)}.",
        "An interval resamples clips and seeds together, 10,000 times, and clips of a scene, recording or "
        "sequence as one; bold: it excludes 0. On one seed (x 1) it is over clips alone and says nothing of other "
        "seeds; on few, it is too narrow where seeds differ more than clips do. Intervals are not "
        "corrected for their number. Where an arm was run at several settings, each fold is judged by the setting "
        "that is best on the other folds. `study_runs.csv` and `study_clips.csv.gz` hold every run and every tested "
        "clip.",
    ]


# --- picture -------------------------------------------------------------------------------------------------------


def draw(study: Study, gains: Gains, stem: Path) -> list[Path]:
    """Differences to the reference arm with their intervals, on one scale: a panel per set that has any, and one of
    their means."""
    rows: dict[str, Mapping[str, Interval]] = {
        study.sets[chosen].label: of_set for chosen, of_set in gains.by_set.items()
    }
    rows["all sets"] = gains.over_sets
    rows = {title: compared for title, compared in rows.items() if compared}
    if not rows:
        return []
    names = [arm for arm in study.arms if any(arm in compared for compared in rows.values())]
    labels = [name_compared(study, arm).replace(" (", "\n(") for arm in reversed(names)]
    with style():
        drawn = figure(1.9 + 2.1 * len(rows), 0.9 + 0.28 * len(names))
        axes = drawn.subplots(1, len(rows), sharex=True, sharey=True, squeeze=False)[0]
        for axis, (title, compared) in zip(axes, rows.items(), strict=True):
            for arm, d in compared.items():
                y = len(names) - 1 - names.index(arm)
                color = COLORS[0] if d.low > 0 else COLORS[1] if d.high < 0 else GREY
                axis.plot([d.low, d.high], [y, y], color=color, lw=1.5, solid_capstyle="butt")
                axis.plot(d.mean, y, "o", color=color, ms=4)
            axis.axvline(0, color="black", lw=0.8)
            axis.set(title=title, xlabel="difference in top-1, points")
            axis.set_yticks(range(len(names)), labels)
            axis.set_ylim(-0.6, len(names) - 0.4)
    return save(drawn, stem)
