"""Where the command writes, before a model is loaded."""

from pathlib import Path

import pytest

from partimento.pipelines.cli import main, make_parser
from partimento.pipelines.cli_output import check_output, with_picture_option


def parsed(*arguments):
    return make_parser().parse_args(with_picture_option(arguments))


def test_the_default_is_never_written_over(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert check_output(None, None) == Path("partimento.mid")
    Path("partimento.mid").touch()
    assert check_output(None, None) == Path("partimento-2.mid")
    assert check_output(None, None, 2) == Path("partimento.mid"), "partimento_1.mid and _2 are free"
    Path("partimento_2.mid").touch()
    assert check_output(None, None, 2) == Path("partimento-2.mid")
    assert check_output(Path("partimento.mid"), None) == Path("partimento.mid"), "what is named is written over"


@pytest.mark.parametrize(
    ("name", "file"),
    [("a.mid", "a.mid"), ("a.MIDI", "a.MIDI"), ("a", "a.mid"), ("canción nº 1.v2", "canción nº 1.v2.mid")],
)
def test_a_midi_file_gets_its_ending(tmp_path, name, file):
    assert check_output(tmp_path / "new folder" / name, None) == tmp_path / "new folder" / file


@pytest.mark.parametrize(
    ("name", "says"), [("song.wav", "song.mid"), ("notes.txt/song.mid", "is a file"), ("", "folder")]
)
def test_what_cannot_be_written_is_refused_at_once(tmp_path, capsys, name, says):
    (tmp_path / "notes.txt").touch()
    assert main(["generate", "-o", str(tmp_path / name)]) == 1
    message = capsys.readouterr().err
    assert says in message
    assert message.count("\n") == 1


def test_a_text_behind_the_picture_option_is_a_text():
    for text in ("slow jazz", "jazz", "rock at 90.5", "blues"):
        options = parsed("generate", "--piano-roll", text)
        assert (" ".join(options.text), options.piano_roll) == (text, True)
    options = parsed("continue", "--piano-roll", "in.mid")
    assert (options.midi, options.piano_roll) == (Path("in.mid"), True)
    options = parsed("generate", "--piano-roll", "my rolls/a b.png", "jazz")
    assert (options.text, options.piano_roll) == (["jazz"], Path("my rolls/a b.png"))
    assert parsed("generate", "jazz", "--piano-roll").piano_roll is True
    assert parsed("generate", "jazz").piano_roll is None


def test_a_picture_of_an_unknown_kind_is_refused(capsys):
    with pytest.raises(SystemExit):
        parsed("generate", "--piano-roll", "roll.gif")
    assert "a picture ends in .png" in capsys.readouterr().err


def test_a_text_needs_no_quotes():
    assert parsed("generate", "slow", "jazz", "--bars", "8").text == ["slow", "jazz"]
    assert parsed("generate", "--bars", "8", "slow jazz").text == ["slow jazz"]
    assert parsed("generate").text == []
