"""Checkpoints on disk: whole or absent, verified, rotated."""

import pytest

from partimento.training.arguments import TrainArguments
from partimento.training.checkpointing import (
    MANIFEST,
    CheckpointError,
    LoopState,
    clean_partial,
    find_checkpoint,
    list_checkpoints,
    replace_folder,
    rotate_checkpoints,
    verify_checkpoint,
    write_atomically,
    write_manifest,
)
from partimento.training.run_log import RunLog, read_log
from partimento.training.run_setup import apply_raised_limits


def make_folder(output, name, content="weights"):
    folder = output / name
    folder.mkdir()
    (folder / "model.bin").write_text(content, encoding="utf-8")
    write_manifest(folder, {"num_processes": 1})
    return folder


def test_the_newest_checkpoint_that_verifies_is_taken(tmp_path):
    for number in (4, 8, 12, 100):
        make_folder(tmp_path, f"step-{number}")
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-4", "step-8", "step-12", "step-100"]
    assert [find_checkpoint(tmp_path)[0].name, find_checkpoint(tmp_path)[1]] == ["step-100", []]
    (tmp_path / "step-100" / "model.bin").write_text("changed", encoding="utf-8")
    (tmp_path / "step-12" / MANIFEST).unlink()
    folder, skipped = find_checkpoint(tmp_path)
    assert folder.name == "step-8"
    assert [line.partition(":")[0] for line in skipped] == ["step-100", "step-12"]
    assert "model.bin has changed" in skipped[0]
    (tmp_path / "step-8" / "model.bin").unlink()
    assert "missing" in verify_checkpoint(tmp_path / "step-8")
    (tmp_path / "step-4" / MANIFEST).write_text("{", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"step-100: model.bin has changed; step-12: .*step-4: "):
        find_checkpoint(tmp_path)
    assert find_checkpoint(tmp_path / "absent") == (None, [])


def test_partial_folders_are_ignored_and_removed(tmp_path):
    make_folder(tmp_path, "step-4")
    make_folder(tmp_path, ".tmp-step-8")
    (tmp_path / ".tmp-log.jsonl").write_text("x", encoding="utf-8")
    assert find_checkpoint(tmp_path)[0].name == "step-4"
    assert clean_partial(tmp_path) == [".tmp-log.jsonl", ".tmp-step-8"]
    assert [path.name for path in tmp_path.iterdir()] == ["step-4"]


def test_a_folder_lost_between_two_renames_comes_back(tmp_path):
    make_folder(tmp_path, ".old-best", "old")
    assert clean_partial(tmp_path) == []
    assert (tmp_path / "best" / "model.bin").read_text(encoding="utf-8") == "old"
    make_folder(tmp_path, ".old-best", "older")
    assert clean_partial(tmp_path) == [".old-best"]
    assert (tmp_path / "best" / "model.bin").read_text(encoding="utf-8") == "old"


def test_replacing_a_folder(tmp_path):
    make_folder(tmp_path, "best", "old")
    replace_folder(make_folder(tmp_path, ".tmp-best", "new"), tmp_path / "best")
    assert [path.name for path in tmp_path.iterdir()] == ["best"]
    assert (tmp_path / "best" / "model.bin").read_text(encoding="utf-8") == "new"


def test_rotation_keeps_the_newest_and_the_best(tmp_path):
    for number in (1, 2, 3, 4, 5):
        make_folder(tmp_path, f"step-{number}")
    rotate_checkpoints(tmp_path, 2, best_update=2)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-2", "step-4", "step-5"]


def test_small_files_are_replaced_whole(tmp_path):
    write_atomically(tmp_path / "latest", "step-1\n")
    write_atomically(tmp_path / "latest", "step-2\n")
    assert (tmp_path / "latest").read_text(encoding="utf-8") == "step-2\n"
    assert len(list(tmp_path.iterdir())) == 1


def test_log_is_cut_back_and_survives_a_torn_line(tmp_path):
    log = RunLog(tmp_path / "log.jsonl")
    for update in range(5):
        log.write("train", update, loss=1.0 / (update + 1), norm=float("nan"))
    with log.path.open("a", encoding="utf-8") as file:
        file.write('{"kind": "tra')
    assert [entry["update"] for entry in read_log(log.path)] == [0, 1, 2, 3, 4]
    assert log.cut_back(2) == 3
    entries = list(read_log(log.path))
    assert [entry["update"] for entry in entries] == [0, 1, 2]
    assert entries[2] == {"kind": "train", "update": 2, "loss": 1 / 3, "norm": "nan"}
    log.path.write_text('nonsense\n{"kind": "train", "update": 1}\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"log\.jsonl:1"):
        list(read_log(log.path))


def test_a_silent_log_writes_nothing(tmp_path):
    log = RunLog(None)
    log.write("train", 1)
    assert log.cut_back(0) == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("finished", "minutes", "updates", "expected"),
    [
        ("max_minutes", 1, 100, ("max_minutes", 50)),  # nothing was raised
        ("max_minutes", 2, 100, (None, 0)),
        ("max_minutes", 0, 100, (None, 0)),  # no limit any more
        ("max_minutes", 1.01, 100, ("max_minutes", 50)),  # more was used already
        ("max_minutes", 1, 200, ("max_minutes", 50)),  # the time is used up all the same
        (None, 2, 100, (None, 0)),  # killed in the cool-down
        ("max_updates", 2, 50, ("max_updates", 0)),
        ("max_updates", 2, 60, (None, 0)),
    ],
)
def test_raised_limits_let_a_run_go_on(finished, minutes, updates, expected):
    state = LoopState(update=50, planned_updates=50, seconds=61.0, finished=finished)
    before = {"max_minutes": 1, "max_updates": 50}
    apply_raised_limits(state, before, TrainArguments(max_minutes=minutes, max_updates=updates))
    assert (state.finished, state.planned_updates) == expected


def test_raised_updates_after_the_last_planned_one():
    state = LoopState(update=50, finished="max_updates")
    apply_raised_limits(state, {"max_minutes": 0}, TrainArguments(max_updates=60))
    assert state.finished is None
