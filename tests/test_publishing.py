"""Only one command changes the shipped results, and it never loses a number."""

import csv
import shutil
from pathlib import Path

import pytest
from runs import ROOT

from vmp.errors import RunError
from vmp.files import write_csv
from vmp.paper.publishing import publish
from vmp.paper.study import PLACE
from vmp.paper.tables import load_profile, results_of

SHIPPED = ROOT / "docs/results/mini_first"


@pytest.fixture
def places(tmp_path):
    """(folder of a user's results, folder of published results), both copies of the shipped results."""
    for name in ("mine", "published"):
        shutil.copytree(SHIPPED, tmp_path / name)
    return tmp_path / "mine", tmp_path / "published"


def change(path: Path, row: int, **cells: str) -> None:
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    rows[row] |= cells
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_new_numbers_are_published(places):
    mine, published = places
    change(mine / "table1.csv", 0, ours="12.34")
    (published / "table2.csv").unlink()
    written = publish(mine, published)
    assert {path.name for path in written} >= {
        "table1.csv",
        "table1.md",
        "table8.tex",
        "claims.md",
        "figure4.png",
    }
    assert bytes_of(published) == bytes_of(mine)


def test_figures_with_frames_of_videos_stay_where_they_are(places):
    mine, published = places
    shutil.rmtree(published)
    written = {path.name for path in publish(mine, published, frames=False)}
    assert {"figure4.png", "figure11.png", "table1.csv"} <= written
    assert "figure12.png" not in written
    assert (mine / "figures/figure12.png").is_file()
    with pytest.raises(RunError, match=r"has no figure12, table9 \(figure12: shows"):
        publish(mine, published, only=["figure12", "table9"], frames=False)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda d: change(d / "table1.csv", 3, ours="not run"), "has no number"),
        (lambda d: change(d / "table1.csv", 3, seeds="1"), "1 seeds instead of 3"),
        (lambda d: (d / "claims.md").write_text("## Do prompts help?\n\nNot run.\n"), "is not there"),
        (lambda d: replace(d / "claims.md", "| 120 |", "| 40 |"), "All, Pairs: 40 instead of 120"),
        (
            lambda d: replace(d / "claims.md", "| finegym | 5 |", "| x | 5 |"),
            "finegym, 5, Curves: is not there",
        ),
        (lambda d: change(d / "starts.csv", 1, top1=""), "has no number"),
        (lambda d: (d / "figures/figure4.png").write_bytes(b""), "empty"),
        (lambda d: (d / "table3.csv").unlink(), "without its .csv"),
    ],
)
def test_a_published_number_is_never_lost(places, damage, said):
    mine, published = places
    before = bytes_of(published)
    change(mine / "table2.csv", 0, ours="99")
    damage(mine)
    with pytest.raises(RunError, match=said):
        publish(mine, published)
    assert bytes_of(published) == before
    publish(mine, published, only=["table2"])
    assert "99" in (published / "table2.csv").read_text()


def test_nothing_to_publish_is_an_error(tmp_path):
    with pytest.raises(RunError, match="nothing to publish"):
        publish(tmp_path, tmp_path / "to")
    with pytest.raises(RunError, match="has no table9"):
        publish(SHIPPED, tmp_path / "to", only=["table9"])


def test_no_profile_writes_its_results_into_the_published_folder():
    for name in ("mini", "paper"):
        profile = load_profile(name)
        assert results_of(profile.output).parts[0] == "outputs"
        assert profile.published.startswith("docs/results")


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ("claims", "--profile", "mini"),
        ("figure", "3"),
        ("reproduce", "table=4", "profile=mini", "dry=1"),
    ],
)
def test_other_commands_do_not_change_the_shipped_results(command, tmp_path, script):
    """In a clone without runs, as a new user has."""
    for name in ("scripts", "conf", "docs"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    before = bytes_of(tmp_path / "docs")
    code, _, errors = script(*command, root=tmp_path)
    assert code == 0, errors
    assert bytes_of(tmp_path / "docs") == before


def test_folders_are_those_of_the_working_directory(places, tmp_path, monkeypatch, script):
    mine, _ = places
    monkeypatch.chdir(tmp_path)
    results = mine.relative_to(tmp_path)
    code, said, errors = script("publish", "table1", "--profile", "mini", "--results", results, "--to", "new")
    assert code == 0, errors
    assert str(tmp_path / "new/table1.csv") in said
    assert (tmp_path / "new/table1.csv").is_file()


def test_a_packed_file_is_chosen_by_its_name_without_suffixes(tmp_path):
    source, target = tmp_path / "results", tmp_path / "docs"
    header = ["set", "fold", "id", "group", "class", "none/base/0", "learned/base/0"]
    source.mkdir()
    write_csv(source / "study_clips.csv.gz", [header, list("a1bcdee")])
    (source / "claims.md").write_text("# Claims")
    assert publish(source, target, only=["study_clips"]) == [target / "study_clips.csv.gz"]
    write_csv(source / "study_clips.csv.gz", [header, [*"a1bcde", ""]])
    with pytest.raises(
        RunError, match=r"1 published numbers would be lost[\s\S]*a, 1, learned, base, 0, b has"
    ):
        publish(source, target, only=["study_clips"])


def test_a_study_is_published_as_a_whole(tmp_path):
    """Its page alone could have fewer runs than the records that stay beside it."""
    source, target = tmp_path / "results", tmp_path / "docs"
    source.mkdir()
    for name in ("study_x.md", "study_x.png", "claims.md"):
        (source / name).write_text("# A page")
    with pytest.raises(RunError, match=r"study_x\.md: without study_runs\.csv"):
        publish(source, target)
    write_csv(source / "study_runs.csv", [[*PLACE, "top1"], [*"a1bc0", "50"]])
    write_csv(
        source / "study_clips.csv.gz", [["set", "fold", "id", "group", "class", "b/c/0"], list("a1deff")]
    )
    written = {path.name for path in publish(source, target, only=["study_x"])}
    assert written == {"study_x.md", "study_x.png", "study_runs.csv", "study_clips.csv.gz"}
    write_csv(source / "study_runs.csv", [[*PLACE, "top1"], [*"a1bc1", "50"]])
    with pytest.raises(RunError, match="a, 1, b, c, 0 has no number"):
        publish(source, target, only=["study_x"])
