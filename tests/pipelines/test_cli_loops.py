"""The commands interpolate, vary, sample and attribute as a user types them, on a tiny model with random weights."""

import subprocess
import sys

import pytest
from symusic import Note, Score, TimeSignature, Track

from partimento.pipelines.cli import main, make_parser
from partimento.pipelines.cli_loops import LOOP_COMMANDS


@pytest.fixture
def model(musicvae_folder):
    return str(musicvae_folder)


@pytest.fixture
def files(tmp_path):
    paths = []
    for number, pitch in enumerate((60, 72)):
        score = Score(480)
        score.tracks.append(Track(name="Flute", program=73))
        for i in range(16):
            score.tracks[0].notes.append(Note(480 * i, 480, pitch + (5 * i) % 7, 80))
        paths.append(str(tmp_path / f"in{number}.mid"))
        score.dump_midi(paths[-1])
    return paths


def notes(path):
    return [(n.time, n.duration, n.pitch) for n in Score(path).tracks[0].notes]


@pytest.mark.parametrize("command", LOOP_COMMANDS)
def test_help_teaches(command, capsys):
    with pytest.raises(SystemExit, match="0"):
        make_parser().parse_args([command, "--help"])
    text = capsys.readouterr().out
    for word in ("examples:", f"partimento {command}", "--seed", "--tempo", "--piano-roll", "--model"):
        assert word in text
    assert ("which bars are taken" in text) == (command != "sample")


def test_interpolate_joins_the_steps(model, files, tmp_path, capsys):
    out = tmp_path / "made" / "morph.mid"
    arguments = ["interpolate", *files, "--steps", "5", "--model", model, "-o", str(out), "--tempo", "90"]
    assert main([*arguments, "--piano-roll"]) == 0
    printed = capsys.readouterr()
    assert printed.out.split() == [str(out), str(out.with_suffix(".png"))]
    assert "bars 1-2 of 4, Flute (Flute)" in printed.err
    assert Score(out).tempos[0].qpm == pytest.approx(90, abs=0.01)
    first = notes(out)
    assert main(arguments) == 0
    assert notes(out) == first

    assert main([*arguments, "--separate", "--bar", "3,1", "-q"]) == 0
    printed = capsys.readouterr()
    assert printed.out.split()[-5:] == [str(out.with_name(f"morph_{i}.mid")) for i in range(1, 6)]


def test_vary_and_sample_number_their_files(model, files, tmp_path, capsys):
    out = tmp_path / "v.mid"
    arguments = ["vary", files[0], "-n", "3", "--seed", "5", "--model", model, "-o", str(out)]
    assert main(arguments) == 0
    assert "seed 5" in capsys.readouterr().err
    before = [notes(out.with_name(f"v_{i}.mid")) for i in (1, 2, 3)]
    assert main(arguments) == 0
    assert [notes(out.with_name(f"v_{i}.mid")) for i in (1, 2, 3)] == before
    assert main([*arguments, "--join"]) == 0
    assert sum(map(len, before)) == len(notes(out))
    assert main(["sample", "-n", "2", "--model", model, "-o", str(out), "-q"]) == 0


def test_attribute_says_what_changed(model, files, tmp_path, capsys):
    out = tmp_path / "busy.mid"
    assert main(["attribute", files[0], "--density", "+1.0", "--model", model, "-o", str(out)]) == 0
    assert "note density: 0.25 in the file" in capsys.readouterr().err
    assert main(["attribute", files[0], "--density", "-1.0", "--model", model, "-o", str(out), "-q"]) == 0


def test_refusals_are_one_line(model, files, tmp_path, capsys):
    waltz = Score(files[0])
    waltz.time_signatures.append(TimeSignature(0, 3, 4))
    waltz.dump_midi(tmp_path / "waltz.mid")
    Score(480).dump_midi(tmp_path / "empty.mid")
    (tmp_path / "broken.mid").write_bytes(b"MThd\0\0\0\6\0\1\0\1\1\xe0MTrk\0\0\xff\xff")
    for arguments, says in (
        (["attribute", files[0]], "give at least one of --density"),
        (["vary", "absent.mid"], "there is no such file"),
        (["vary", str(tmp_path / "waltz.mid")], "only 3/4"),
        (["vary", str(tmp_path / "empty.mid")], "contains no notes"),
        (["vary", str(tmp_path / "broken.mid")], "broken.mid"),
        (["vary", files[0], "--bar", "9"], "choose bar 1 to 4, not 9"),
        (["vary", files[0], "--bar", "x"], "whole number"),
        (["vary", files[0], "--track", "oboe"], "Choose among: 1 Flute"),
        (["interpolate", *files, "--bar", "1,2,3"], "give one value, or 2"),
        (["sample", "-n", "0"], "n=0 is out of range"),
        (["sample", "-o", str(tmp_path)], "this is a folder"),
        (["sample", "--model", "no-such-model"], "not an embedded checkpoint"),
    ):
        with_model = arguments if "--model" in arguments else [*arguments, "--model", model]
        assert main(with_model) == 1, arguments
        message = capsys.readouterr().err.splitlines()
        assert says in message[-1]
        assert message[-1].startswith(f"partimento {arguments[0]}: ")
        assert not any("Traceback" in row for row in message)
    assert main(["vary", str(tmp_path / "waltz.mid"), "--any-metre", "-n", "1", "-q", "--model", model,
                 "-o", str(tmp_path / "o.mid")]) == 0  # fmt: skip


def test_info_knows_the_model(model):
    done = subprocess.run(
        [sys.executable, "-m", "partimento.pipelines.cli", "info", model], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    for word in ("musicvae", "melody", "note_density", "4.0"):
        assert word in done.stdout
