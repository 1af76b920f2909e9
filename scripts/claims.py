"""Compare the tables' runs with the paper's claims about gains, slope and shift by λ and camera, and costs.

examples:
  python scripts/claims.py                              the real datasets -> outputs/results/claims.md
  python scripts/claims.py --profile mini --seeds 3     in miniature -> outputs/mini/results/claims.md

It makes no runs; use make paper or make table1 ... for that. Only make publish changes docs/results.
"""

import os
from pathlib import Path

from vmp.cli import absolute, friendly, parser_of

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--profile", default="paper", help="a file in conf/table/profile/")
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds the tables were run with")
    parser.add_argument(
        "--results", type=absolute, help="folder with table8.csv; default: results/ beside the profile's runs"
    )
    parser.add_argument("--out", type=absolute, help="default: claims.md in --results")
    options = parser.parse_args()
    if options.seeds < 1:
        parser.error("--seeds must be at least 1")

    from vmp.files import write_text
    from vmp.paper.claims import claims
    from vmp.paper.tables import load_profile, results_of

    os.chdir(ROOT)
    profile = load_profile(options.profile)
    results = options.results or results_of(profile.output)
    out = options.out or results / "claims.md"
    text = claims(options.profile, seeds=options.seeds, results=results)
    write_text(out, text)
    print(text)
    print(f"-> {out}")
    if "\n| " not in text:
        print(
            f"There are no runs of the tables in {profile.output}: make table1 makes them, with PROFILE=mini in "
            "miniature. docs/results has the published pages."
        )


if __name__ == "__main__":
    with friendly():
        main()
