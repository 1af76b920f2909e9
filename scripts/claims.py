"""Compare the tables' runs with the paper's claims about gains, slope and shift by λ and camera, and costs.

examples:
  python scripts/claims.py                              the real datasets -> outputs/results/claims.md
  python scripts/claims.py --profile mini --seeds 3     in miniature -> outputs/mini/results/claims.md
  python scripts/claims.py trainer.amp=bf16             of tables that were made with SET='trainer.amp=bf16'

It makes no runs; use make paper or make table1 ... for that. Only make publish changes docs/results.
"""

import os
from pathlib import Path

from vmp.cli import absolute, friendly, parser_of

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="overrides that the tables' runs were made with"
    )
    parser.add_argument("--profile", default="paper", help="a file in conf/table/profile/")
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds the tables were run with")
    parser.add_argument(
        "--results", type=absolute, help="folder with table8.csv; default: results/ beside the profile's runs"
    )
    parser.add_argument("--out", type=absolute, help="default: claims.md in --results")
    options = parser.parse_intermixed_args()
    if options.seeds < 1:
        parser.error("--seeds must be at least 1")
    if wrong := [word for word in options.overrides if "=" not in word]:
        parser.error(f"{wrong[0]!r}: must be KEY=VALUE, as for train.py")

    from vmp.files import write_text
    from vmp.paper.arguments import in_full
    from vmp.paper.claims import claims
    from vmp.paper.tables import load_profile, results_of

    given = [in_full(word, ROOT) for word in options.overrides if word.startswith("output=")]
    overrides = [word for word in options.overrides if not word.startswith("output=")]
    os.chdir(ROOT)
    profile = load_profile(options.profile)
    output = given[-1].partition("=")[2] if given else profile.output
    results = options.results or results_of(output)
    out = options.out or results / "claims.md"
    text = claims(options.profile, seeds=options.seeds, output=output, results=results, overrides=overrides)
    write_text(out, text)
    print(text)
    print(f"-> {out}")
    if "\n| " not in text:
        print(
            f"There are no such runs of the tables in {output}: make table1 makes them, with PROFILE=mini in "
            "miniature. Runs that were made with SET='...' are read with the same SET. docs/results has the published "
            "pages."
        )


if __name__ == "__main__":
    with friendly():
        main()
