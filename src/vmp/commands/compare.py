"""Show how two runs differ in settings, classes, clips, learned scalars and layers, and whether chance explains it.

examples:
  vmp compare outputs/.../none/seed0 outputs/.../learned_lambda1/seed0
  vmp compare A B --layers 8 --picture comparison.png --clips differing.csv
  vmp compare A B --json
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from vmp.cli import parser_of
from vmp.errors import UserError
from vmp.figures.comparison import ClassChange, Pairing, class_changes, mcnemar, pair
from vmp.files import write_csv
from vmp.paper.paired import difference
from vmp.runs.folder import ABSENT, check_file, check_writable, differences, what_matters
from vmp.runs.run import Run, read_run
from vmp.targets import take_trust


def main() -> None:
    options = _parser().parse_args()
    if options.most < 1 or (options.layers is not None and options.layers < 0):
        raise UserError("--most must be at least 1, --layers at least 0")
    if options.clips:
        check_file(options.clips, "--clips ")
    if options.picture:
        check_writable(options.picture.parent, "choose another with --picture")
    runs = take_trust(options.runs)
    if len(runs) != 2:
        raise UserError(f"{' '.join(runs) or 'no run'}: name two runs")
    a, b = (read_run(Path(folder)) for folder in runs)
    if a.folder.resolve() == b.folder.resolve():
        raise UserError(f"{a.folder}: name two runs, not one twice")
    paired = pair(a, b)
    changes = class_changes(paired, a.classes)
    layers = None
    if options.layers is not None:
        from vmp.figures.similarity import compare_layers

        layers = compare_layers(a, b, clips=options.layers)
    found = compare(a, b, paired, changes, layers)
    if options.clips:
        write_clips(options.clips, paired, a.classes)
    pictures = []
    if options.picture:
        from vmp.figures.canvas import save, style
        from vmp.figures.comparison import draw_comparison
        from vmp.figures.selection import label

        labels = label(a), label(b)
        p, interval = found["top1"]["mcnemar_p"], found["top1"]["interval"]
        with style():
            drawn = draw_comparison(paired, changes, labels=labels, p=p, interval=interval, layers=layers)
        suffix = options.picture.suffix in (".png", ".svg")
        pictures = save(drawn, options.picture.with_suffix("") if suffix else options.picture)
    if options.json:
        print(json.dumps(found, indent=1, ensure_ascii=False))
        return
    show(found, most=options.most)
    for path in (*([options.clips] if options.clips else []), *pictures):
        print(path)


def _parser() -> argparse.ArgumentParser:
    parser = parser_of(__doc__)
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="two finished runs on the same clips; trust=PACKAGE"
    )
    parser.add_argument("--most", type=int, default=8, help="classes to list, of gains and of losses")
    layers = "add the cosine similarity of layers, over N test clips"
    parser.add_argument("--layers", type=int, metavar="N", help=layers)
    parser.add_argument("--clips", type=Path, help="write the clips on which the runs differ, as CSV")
    parser.add_argument("--picture", type=Path, help="draw the comparison as PNG and SVG")
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")
    return parser


def compare(
    a: Run, b: Run, paired: Pairing, changes: list[ClassChange], layers: dict[str, dict[str, float]] | None
) -> dict[str, Any]:
    """The comparison as plain values: accuracies in percent, changes from the first run to the second."""
    before, after = (what_matters(run.config) for run in (a, b))
    scalars = [run.result.get("scalars", {}) for run in (a, b)]
    first, second = paired.top1
    d = difference(paired.right_b[None], paired.right_a[None])
    found = {
        "a": str(a.folder),
        "b": str(b.folder),
        "config": list(differences(before, after)),
        "clips": {"both": len(paired.ids), "only_a": paired.only_a, "only_b": paired.only_b},
        "top1": {
            "a": first,
            "b": second,
            "difference": d.mean,
            "interval": [d.low, d.high],
            "fixed": d.fixed,
            "broken": d.broken,
            "mcnemar_p": mcnemar(d.fixed, d.broken),
        },
        "classes": [vars(c) | {"change": c.change} for c in changes],
        "scalars": {key: [s.get(key) for s in scalars] for key in dict.fromkeys([*scalars[0], *scalars[1]])},
    }
    return found | ({"layers": layers} if layers is not None else {})


def write_clips(path: Path, paired: Pairing, classes: list[str]) -> None:
    """Write one row per clip that only one run gets right: id, fixed or broken, actual and predicted classes."""
    rows = [["id", "change", "label", "predicted_a", "predicted_b"]]
    differ = paired.right_a != paired.right_b
    for i in differ.nonzero()[0].tolist():
        change = "fixed" if paired.right_b[i] else "broken"
        names = (classes[row[i]] for row in (paired.labels, paired.predicted_a, paired.predicted_b))
        rows.append([paired.ids[i], change, *names])
    write_csv(path, rows)


def show(found: dict[str, Any], *, most: int) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    # in a file or a pipe a row of the table is one line
    console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 250)
    console.print(f"A  {escape(found['a'])}\nB  {escape(found['b'])}\n")
    console.print("[bold]settings[/bold] (A -> B)")
    both = [line for line in found["config"] if ABSENT not in line]
    if alone := len(found["config"]) - len(both):
        both.append(f"and {alone} more that only one of the two has (--json lists them)")
    console.print("\n".join(f"  {escape(line)}" for line in both) or "  the same")
    t, n = found["top1"], found["clips"]
    console.print(
        f"\n[bold]top-1[/bold]  A {t['a']:.2f} %, B {t['b']:.2f} % on {n['both']} clips: {t['difference']:+z.2f} "
        f"points, 95 % interval {t['interval'][0]:+z.2f} to {t['interval'][1]:+z.2f}\n"
        f"  B gets {t['fixed']} clips right that A does not, and {t['broken']} the other way: McNemar's exact test "
        f"p = {t['mcnemar_p']:.3g}\n  {verdict(t['mcnemar_p'])}"
    )
    if n["only_a"] or n["only_b"]:
        console.print(f"  left out: {n['only_a']} clips that only A scored, {n['only_b']} that only B did")
    gains = [c for c in found["classes"] if c["change"] > 0][:most]
    losses = [c for c in found["classes"] if c["change"] < 0][-most:]
    table = Table(title="classes that change most", title_justify="left", box=None)
    for name in ("class", "clips", "A %", "B %", "change"):
        table.add_column(name, justify="left" if name == "class" else "right", overflow="fold")
    for c in (*gains, *losses):
        table.add_row(
            escape(c["name"]), str(c["clips"]), f"{c['a']:.1f}", f"{c['b']:.1f}", f"{c['change']:+z.1f}"
        )
    console.print()
    console.print(table if gains or losses else "[bold]classes[/bold]  the accuracy of none changes")
    if found["scalars"]:
        console.print("\n[bold]learned scalars[/bold]")
    for name, values in found["scalars"].items():
        texts = ("-" if value is None else f"{value:z.4f}" for value in values)
        console.print(f"  {name:<12} {'  ->  '.join(texts)}")
    for kind, similar in found.get("layers", {}).items():
        least = sorted(similar, key=lambda name: similar[name])[:most]
        mean = sum(similar.values()) / max(1, len(similar))
        console.print(
            f"\n[bold]{kind} of layers[/bold]: cosine similarity {mean:.3f} on average over {len(similar)}; least alike"
        )
        for name in least:
            console.print(f"  {similar[name]:7.4f}  {escape(name)}")


def verdict(p: float) -> str:
    share = "fewer than 0.1" if p < 0.001 else f"{100 * p:.2g}" if p < 0.995 else "100"  # .2g: 1e+02
    odds = f"Of 100 pairs of equally good models, {share} would differ at least as much"
    if p < 0.05:
        return f"{odds}. These two runs differ; whether their settings do takes more seeds to tell."
    return f"{odds}, so chance may explain the difference."
