"""The `partimento` command as a user types it."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
from symusic import Note, Score, TimeSignature, Track

from partimento.checkpoints import list_embedded
from partimento.pipelines.cli import _summary, main, make_parser

embedded = pytest.mark.skipif(not list_embedded(), reason="no embedded checkpoint is installed")


def run(*arguments, cwd=None):
    command = [sys.executable, "-m", "partimento.pipelines.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=300)


def test_help_teaches():
    done = run("--help")
    assert done.returncode == 0
    for word in ("generate", "continue", "space", "info", "--genre jazz", "32 bars"):
        assert word in done.stdout


def test_version(capsys):
    with pytest.raises(SystemExit):
        make_parser().parse_args(["--version"])
    assert capsys.readouterr().out.startswith("partimento ")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["generate", "--model", "no-such-model"], "not an embedded checkpoint"),
        (["continue", "absent.mid"], "there is no such file"),
        (["info", "absent.mid"], "absent.mid"),
        (["generate", "-n", "0"], "at least 1"),
        (["generate", "--model", "musicvae-mel-2bar-small"], "partimento sample --model musicvae-mel-2bar-small"),
        (["generate", "--device", "tpu"], "choose cpu"),
        (["generate", "--device", "cuda:99"], "choose cpu"),
    ],
)
def test_refusals_are_one_line(arguments, says, capsys):
    assert main(arguments) == 1
    message = capsys.readouterr().err
    assert says in message
    assert message.count("\n") == 1


@embedded
def test_two_pieces_with_pictures_then_a_continuation(tmp_path):
    done = run(
        "generate", "--genre", "jazz", "--instruments", "piano,bass,drums", "--bars", 2, "-n", 2, "--seed", 7,
        "-o", "made/out.mid", "--piano-roll", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["made/out_1.mid", "made/out_1.png", "made/out_2.mid", "made/out_2.png"]
    assert "Traceback" not in done.stderr

    done = run("continue", "made/out_1.mid", "--bars", 1, "--seed", 1, "-q", "-o", "longer.mid", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["longer.mid"]
    done = run("info", "longer.mid", "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["bars"] == 3


@pytest.mark.parametrize(
    ("asked", "shown"),
    [({"key": "A-minor"}, "C-major (the relative of A-minor)"), ({"key": "c major"}, "C-major: "), ({}, "C-major: ")],
)
def test_a_key_in_the_other_mode_is_explained(asked, shown):
    score = Score(480)
    score.tracks.append(Track("Piano", 0))
    score.tracks[0].notes.append(Note(0, 480, 60, 90))
    facts = SimpleNamespace(
        score=score, num_bars=1, conditions=asked, measured=lambda: {"tempo": 120, "key": "C-major"}
    )
    assert shown in _summary(facts)


@embedded
def test_a_reader_that_stops_reading_is_no_error():
    command = [sys.executable, "-m", "partimento.pipelines.cli", "info", list_embedded()[0]]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        assert process.stderr.read() == ""


@embedded
def test_drums_alone(tmp_path, capsys):
    assert (
        main(["generate", "--instruments", "drums", "--bars", "1", "--seed", "3", "-o", str(tmp_path / "d.mid")]) == 0
    )
    assert "Drums" in capsys.readouterr().err
    assert main(["info", str(tmp_path / "d.mid")]) == 0
    assert "drums only" in capsys.readouterr().out


@embedded
def test_quiet_prints_only_the_files(tmp_path):
    done = run("generate", "--bars", 1, "--seed", 1, "-q", "-o", tmp_path / "q.mid")
    assert done.stdout.split() == [str(tmp_path / "q.mid")]
    assert done.stderr == ""


def test_info_on_a_waltz_and_on_a_folder_as_output(tmp_path, capsys):
    score = Score(480)
    score.time_signatures.append(TimeSignature(0, 3, 4))
    track = Track("Piano", 0)
    track.notes.append(Note(0, 480, 60, 90))
    score.tracks.append(track)
    score.dump_midi(tmp_path / "waltz.mid")
    assert main(["info", str(tmp_path / "waltz.mid")]) == 0
    shown = capsys.readouterr().out
    assert "3/4" in shown
    assert "cannot take this file" in shown
    assert main(["generate", "-o", str(tmp_path)]) == 1
    assert "this is a folder" in capsys.readouterr().err


@embedded
def test_unknown_genre_names_the_nearest(tmp_path):
    done = run("generate", "--genre", "jaz", "-o", "x.mid", cwd=tmp_path)
    assert done.returncode == 1
    assert "Jazz" in done.stderr
    assert not (tmp_path / "x.mid").exists()


@embedded
def test_info_on_a_model(capsys):
    assert main(["info", list_embedded()[0]]) == 0
    shown = capsys.readouterr().out
    assert "museformer" in shown
    assert "Jazz" in shown
