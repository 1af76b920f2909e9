"""Finding runs below a folder, and their class names."""

from vmp.data.manifest import write_classes
from vmp.runs.run import find_runs


def test_configs_inside_a_run_are_not_runs(tmp_path):
    for name in ("b/seed0", "a/seed1", "a/seed0", "a/seed0/wandb/run-1/files", "a/seed0/attention"):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / name / "config.yaml").write_text("seed: 0\n")
    found = [str(run.folder.relative_to(tmp_path)) for run in find_runs(tmp_path)]
    assert found == ["a/seed0", "a/seed1", "b/seed0"]
    assert [run.folder for run in find_runs(tmp_path / "a/seed0")] == [tmp_path / "a/seed0"]


def test_class_names_may_contain_unicode_line_separators(tmp_path):
    names = ["plain", "with\u2028inside", "and\x85so"]
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    write_classes(tmp_path / "classes.txt", names)
    (run,) = find_runs(tmp_path)
    assert run.classes == names


def test_linked_folders_are_searched_and_no_run_is_found_twice(tmp_path):
    """Runs on another disk, behind a link, and a link to a folder above, which has no end."""
    for folder in (tmp_path / "out/b/seed0", tmp_path / "disk/real/seed0"):
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text("seed: 0\n")
    (tmp_path / "out/a").symlink_to(tmp_path / "disk")
    (tmp_path / "out/c").symlink_to(tmp_path / "out")
    (tmp_path / "out/d").symlink_to(tmp_path / "disk/real/seed0")
    found = [str(run.folder.relative_to(tmp_path)) for run in find_runs(tmp_path / "out")]
    assert found == ["out/a/real/seed0", "out/b/seed0"]
