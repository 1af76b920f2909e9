"""Copy the results of your runs into docs/results, which no other command writes.

examples:
  python scripts/publish.py                                 outputs/results -> docs/results
  python scripts/publish.py --profile mini table1 claims    outputs/mini/results -> docs/results/mini, these only
  python scripts/publish.py --profile real                  outputs/real/results -> docs/results/real

If a published number, or some of its seeds, would be lost, nothing is copied.
"""

import os
from pathlib import Path

from vmp.cli import absolute, friendly, parser_of

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument(
        "only", nargs="*", metavar="NAME", help="such as table1 or claims, without suffix; default: all"
    )
    parser.add_argument("--profile", default="paper", help="a file in conf/table/profile/ or conf/study/")
    parser.add_argument(
        "--results", type=absolute, help="folder of your results; default: results/ beside the profile's runs"
    )
    parser.add_argument("--to", type=absolute, help="default: the profile's folder in docs/results")
    options = parser.parse_args()

    from vmp.paper.publishing import publish
    from vmp.paper.study import Study, load_study
    from vmp.paper.tables import Profile, load_profile, results_of

    os.chdir(ROOT)
    is_study = Path("conf/study", f"{options.profile}.yaml").is_file()
    profile: Profile | Study = load_study(options.profile) if is_study else load_profile(options.profile)
    source = options.results or results_of(profile.output)
    target = options.to or Path(profile.published)
    frames = "dataset=motions" in profile.overrides  # generated videos may be shown
    for path in publish(source, target, only=options.only, frames=frames):
        print(f"-> {path}")


if __name__ == "__main__":
    with friendly():
        main()
