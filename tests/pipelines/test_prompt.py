"""Prompts as musicians write them, in English and Spanish, against a table; and the rules behind it."""

import tomllib
from pathlib import Path

import pytest

import partimento.modeling  # noqa: F401  (the embedded processor loads without remote code)
from partimento.checkpoints import embedded_checkpoint
from partimento.pipelines import PromptReader
from partimento.pipelines.cli import main
from partimento.pipelines.prompt_tables import edit_distance, nearest_words, read_number, tokenise
from partimento.tokenization import MidiProcessor

FIRST, EVERYDAY = (
    tomllib.loads((Path(__file__).parent / name).read_text(encoding="utf-8"))["prompt"]
    for name in ("prompts.toml", "prompts_everyday.toml")
)


@pytest.fixture(scope="module")
def reader():
    return PromptReader(MidiProcessor.from_pretrained(embedded_checkpoint("museformer-small")))


def test_each_table_has_thirty_prompts_per_language():
    for table in (FIRST, EVERYDAY):
        languages = [row["language"] for row in table]
        assert (languages.count("en"), languages.count("es")) == (30, 30)
    assert len({row["text"] for row in (*FIRST, *EVERYDAY)}) == 120


@pytest.mark.parametrize("row", [*FIRST, *EVERYDAY], ids=lambda row: row["text"][:60])
def test_prompt(reader, row):
    reading = reader.read(row["text"])
    programs = {family: tuple(values) for family, values in row.get("programs", {}).items()}
    instruments = {"instruments": list(programs)} if programs else {}
    assert reading.conditions == row["conditions"] | instruments
    assert reading.programs == programs
    assert reading.without == row.get("without", [])
    assert reading.unmatched == row.get("unmatched", [])
    assert [text.split(":")[0] for text in reading.contradictions] == row.get("contradictions", [])
    assert len(reading.warnings) == row.get("warnings", 0)
    reader.lexicon.processor.condition_ids(reading.conditions)  # the model can be told
    explained = "\n".join(reading.explain())
    assert all(word in explained for word in (*reading.conditions, *reading.unmatched))


def test_labels_come_from_the_model():
    processor = MidiProcessor.from_preset(
        "multitrack", genres=["Bossa-Nova", "Jazz", "Schlager"], artists=["Miles Davis"], moods=["Sad"]
    )
    reader = PromptReader(processor)
    reading = reader.read("sad bossa nova in the style of Miles Davis")
    assert reading.conditions == {"genre": "Bossa-Nova", "artist": "Miles-Davis", "mood": "Sad"}
    assert reader.read("schlager").conditions == {"genre": "Schlager"}
    reading = reader.read("reggae at 80 bpm")
    assert reading.conditions == {"tempo": 80.0}
    assert "no genre 'reggae'" in reading.warnings[0]
    assert reading.unmatched == ["reggae"]


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("in A minor", "A-minor"),
        ("in a minor key", "A-minor"),
        ("a minor key", "A-minor"),
        ("a major hit", None),
        ("in A", "A-major"),
        ("in a jazz style", None),
        ("a song, I am in love", None),
        ("Am", "A-minor"),
        ("C#m", "C#-minor"),
        ("in D flat", "Db-major"),
        ("key of b flat minor", "Bb-minor"),
        ("la mayor parte de la noche", None),
        ("en la noche", None),
        ("en la", "A-major"),
        ("en si bemol menor", "Bb-minor"),
        ("en mi casa", None),
        ("do# menor", "C#-minor"),
        ("en modo menor", "A-minor"),
        ("sad, in G", "G-minor"),
    ],
)
def test_keys(reader, text, key):
    assert reader.read(text).conditions.get("key") == key


@pytest.mark.parametrize(
    ("text", "slot", "value"),
    [
        ("ninety bpm", "tempo", 90),
        ("a hundred and twenty bpm", "tempo", 120),
        ("ciento veinte ppm", "tempo", 120),
        ("tempo: 84", "tempo", 84),
        ("negra = 72", "tempo", 72),
        ("between 90 and 100 bpm", "tempo", 95),
        ("from 90 to 100 bpm", "tempo", 95),
        ("400 bpm", "tempo", 200),
        ("please, 96", "tempo", 96),
        ("♩ = 96", "tempo", 96),
        ("120-130, please", "tempo", 125),
        ("not too fast, not too slow", "tempo", 110),
        ("at 90", "tempo", 90),
        ("16-24 bars", "bars", 20),
        ("bars: 12", "bars", 12),
        ("9999 bars", "bars", 256),
        ("twenty-four measures", "bars", 24),
        ("one minute at 60 bpm", "bars", 15),
        ("a minute at 60 bpm", "bars", 15),
        ("medio minuto, 60 bpm, a minute-free zone", "bars", 8),
        ("1:30", "bars", 45),
        ("2 minutes 30 seconds", "bars", 75),
        ("dos minutos y medio", "bars", 75),
        ("a couple of minutes", "bars", 60),
        ("30 notas por compás", "density", 30),
    ],
)
def test_numbers(reader, text, slot, value):
    assert reader.read(text).conditions == {slot: value} | ({"tempo": 60} if "60 bpm" in text else {})


def test_numbers_outside_the_range_are_reported(reader):
    assert "24 to 200" in reader.read("400 bpm").warnings[0]
    assert "1 to 256 bars" in reader.read("9999 bars").warnings[0]


@pytest.mark.parametrize(
    ("text", "without", "instruments"),
    [
        ("no piano or drums, guitar", ["piano", "drums"], ["guitar"]),
        ("no drums, piano", ["drums"], ["piano"]),
        ("without drums, 16 bars, piano", ["drums"], ["piano"]),
        ("not any drums but a flute", ["drums"], ["Flute"]),
        ("sin piano ni guitarra ni bajo", ["piano", "guitar", "bass"], []),
        ("guitar but no electric guitar", ["Clean Electric Guitar", "Muted Electric Guitar", "Overdriven Guitar",
                                           "Distortion Guitar"], ["guitar"]),
        ("jazz trio without drums", ["drums"], ["piano", "bass"]),
        ("I don't want drums and bass", ["bass", "drums"], []),
        ("guitar, drums and bass", [], ["guitar", "drums", "bass"]),
        ("no bass and drums", ["bass"], ["drums"]),
        ("please don't add any piano, guitar", ["piano"], ["guitar"]),
        ("que no lleve bajo ni piano", ["piano", "bass"], []),
        ("no me gusta el piano; guitarra", ["piano"], ["guitar"]),
        ("flauta y nada de guitarra", ["guitar"], ["Flute"]),
        ("sans basse", ["bass"], []),
        ("not only piano but also drums", [], ["piano", "drums"]),
    ],
)  # fmt: skip
def test_negation(reader, text, without, instruments):
    reading = reader.read(text)
    assert (reading.without, reading.instruments, reading.contradictions) == (without, instruments, [])


@pytest.mark.parametrize(
    ("text", "instruments"),
    [
        ("string quartet with clarinet", ["Clarinet", "Violin", "Viola", "Cello"]),
        ("jazz trio with guitar", ["guitar", "piano", "bass"]),
        ("jazz trio with guitar, bass and drums", ["guitar", "bass", "drums"]),
        ("rock band with slap bass", ["Slap Bass 1", "Distortion Guitar", "drums"]),
    ],
)
def test_a_group_plays_along_with_what_is_named(reader, text, instruments):
    reading = reader.read(text)
    assert (reading.instruments, reading.contradictions, reading.warnings) == (instruments, [], [])


@pytest.mark.parametrize("text", ["pop de los 80", "80s synth", "opus 60", "120%", "32", "a fun song", "the boss"])
def test_numbers_and_words_that_only_look_like_a_wish(reader, text):
    conditions = reader.read(text).conditions
    assert "tempo" not in conditions
    assert conditions.get("genre") in (None, "Pop-Rock")


def test_two_bare_numbers_are_no_tempo(reader):
    reading = reader.read("piano, 90, 120")
    assert "tempo" not in reading.conditions
    assert reading.unmatched == ["90", "120"]


def test_a_church_mode_is_told(reader):
    assert "dorian is taken as minor" in "\n".join(reader.read("in D dorian").explain())


def test_a_refused_mood_does_not_decide_the_key(reader):
    reading = reader.read("no es triste, es alegre")
    assert reading.conditions == {"key": "C-major"}
    assert reading.contradictions == []


def test_diminutives_and_superlatives(reader):
    assert reader.read("guitarrita, pianitos, lentísimo").request() == {
        "tempo": 52.0,
        "instruments": ["guitar", "piano"],
    }


def test_a_text_in_another_language_is_said_to_be_none(reader):
    assert "English and Spanish" in reader.read("ein langsamer Walzer mit Geige").warnings[-1]


def test_every_word_is_accounted_for(reader):
    reading = reader.read("a zesty quantum shuffle for 3 ocelots, jazz")
    assert reading.conditions == {"genre": "Jazz"}
    assert reading.unmatched == ["zesty", "quantum", "shuffle", "3", "ocelots"]


def test_a_word_misspelt_beyond_repair_gets_its_nearest(reader):
    reading = reader.read("clarnettte")
    assert "clarinet" in reading.nearest.get("clarnettte", []) or reading.instruments == ["Clarinet"]


def test_strange_texts_are_read_or_refused(reader):
    for text in (
        "",
        "   ",
        "🎹🎷",
        "no",
        "sin",
        "without",
        "in",
        "en",
        "/",
        "4/",
        "-",
        "90-",
        "😀 no no no",
        "\x00\n",
        "1e9 bars",
    ):
        assert reader.read(text).text == text
    with pytest.raises(ValueError, match="5,001"):
        reader.read("a" * 5001)


def test_misspellings_keep_their_distance():
    assert [edit_distance(*pair) for pair in (("pinao", "piano"), ("jaz", "jazz"), ("cat", "dog"))] == [1, 1, 3]
    assert nearest_words("guitarr", ["guitar", "guitarra"]) == ["guitar", "guitarra"]
    assert nearest_words("snow", ["slow"]) == []
    assert nearest_words("grass", ["brass"]) == []


def test_number_words():
    def number(text):
        return read_number(tokenise(text), 0)

    assert number("thirty two bars") == (32, 2)
    assert number("treinta y dos compases") == (32, 3)
    assert number("two hundred and five") == (205, 4)
    assert number("thirty and piano") == (30, 1)
    assert number("piano") is None


def test_generate_from_a_text(tmp_path, capsys):
    path = tmp_path / "out.mid"
    text = "slow jazz with piano and bass, no drums, 2 bars, purple"
    assert main(["generate", text, "--tempo", "90", "--seed", "1", "-o", str(path)]) == 0
    said = capsys.readouterr()
    assert said.out.split() == [str(path)]
    for part in (
        "Jazz",
        "piano (Acoustic Grand Piano)",
        "no drums",
        "--tempo goes before",
        "purple",
        "2 bars",
        "90 bpm",
    ):
        assert part in said.err
    assert path.is_file()


def test_a_contradiction_between_text_and_options_is_settled_by_the_option(tmp_path, capsys):
    path = tmp_path / "out.mid"
    assert main(["generate", "no drums", "--instruments", "drums", "--bars", "1", "--seed", "1", "-o", str(path)]) == 0
    assert "Drums" in capsys.readouterr().err
