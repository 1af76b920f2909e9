"""Write one HTML page about runs: accuracies, curves, confusion matrices, worst clips, and tables with the paper's.

examples:
  vmp report outputs                              every run below outputs -> outputs/report.html
  vmp report outputs/finegym --out finegym.html --clips 0
"""

from pathlib import Path

from vmp.cli import parser_of
from vmp.errors import UserError
from vmp.report.page import CLIPS, write_report
from vmp.runs.folder import check_file
from vmp.targets import take_trust


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("folders", nargs="+", help="runs, or folders that contain runs; trust=PACKAGE")
    parser.add_argument("--out", type=Path, help="file of the page; default: report.html in the first folder")
    parser.add_argument(
        "--tables",
        nargs="*",
        type=Path,
        help="folders with table<n>.csv (or mini/table<n>.csv); default: results/ in each "
        "of the folders; docs/results has this project's tables",
    )
    parser.add_argument(
        "--clips", type=int, default=CLIPS, help="number of worst clips to draw per run; 0 reads no video"
    )
    options = parser.parse_args()
    options.folders = [Path(word) for word in take_trust(options.folders)]
    if options.clips < 0:
        raise UserError(f"--clips {options.clips}: must be at least 0")
    out, tables = options.out or options.folders[0] / "report.html", options.tables
    if absent := [folder for folder in tables or () if not folder.is_dir()]:
        raise UserError(f"--tables {absent[0]}: no such folder")
    if tables is None:
        tables = [folder / "results" for folder in options.folders]
    check_file(out, "--out ")
    written = write_report(options.folders, out=out, tables=tables, clips=options.clips, progress=True)
    print(
        f"{written.path}: {written.finished} finished of {written.runs} runs, {written.tables} tables, "
        f"{written.pictures} pictures, {written.bytes / 1e6:.1f} MB"
    )
