"""The parts of the Loops Space that need no browser and no Gradio: sliders, undo, the saved list, files, messages."""

import importlib
import io
import json
import math
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from symusic import Note, Score, TimeSignature, Track

SPACE = Path(__file__).resolve().parents[2] / "spaces" / "loops"
if not SPACE.is_dir():
    pytest.skip("runs outside the checkout: spaces/ is not there", allow_module_level=True)
pytest.importorskip("gradio", reason="the Spaces need gradio: pip install 'partimento[space]'")


@pytest.fixture(scope="module", autouse=True)
def space_on_path():
    """As when app.py is started: its folder comes first."""
    sys.path.insert(0, str(SPACE))
    yield
    sys.path.remove(str(SPACE))


@pytest.fixture(scope="module")
def shop(loops_models):
    from loops_models import open_shop

    return open_shop(",".join(loops_models.values()))


@pytest.fixture
def desk(shop):
    from loops_desk import Desk

    return Desk(shop.variant("mel"))


@pytest.fixture(scope="module")
def settings():
    from loops_desk import Settings

    return Settings()


def refused(words):
    """The error of a refused request; its class is looked up when it is raised."""
    from loops_models import RequestError

    return pytest.raises(RequestError, match=words)


def piece(rows, signature=(4, 4), program=0):
    """MIDI of (quarter, length, pitch)."""
    score = Score(480)
    score.time_signatures.append(TimeSignature(0, *signature))
    track = Track(program=program)
    for start, length, pitch in rows:
        track.notes.append(Note(int(480 * start), int(480 * length), pitch, 80))
    score.tracks.append(track)
    return score.dumps_midi()


def quarters(first, count, pitch=60):
    return [(4 * first + n, 1, pitch + n % 7) for n in range(count)]


# Sliders


def test_one_slider_changes_one_coordinate(desk, settings):
    """Not the other sliders, although the page shows them rounded, and although some lie beyond their ends."""
    z = desk.scene.current.z.clone()
    z[2], z[3] = 0.123456, 7.5
    desk.load_z(_point(desk, z), settings)
    desk.move({"d5": 0.25}, "a", settings)
    after = desk.scene.current.z
    assert after[5] == 0.25
    others = [dim for dim in range(len(z)) if dim != 5]
    assert torch.equal(after[others], z[others])
    assert torch.equal(desk.scene.initial.z, z)
    assert desk.scene.current.ids.tolist() == desk.variant.generator.decode(after)[0].ids.tolist()


def test_a_direction_moves_along_itself_only(desk, settings):
    variant, before = desk.variant, desk.scene.current.z
    latent = variant.generator.latent
    desk.move({"p1": 1.5}, "a", settings)
    moved = latent.coordinates(desk.scene.current.z)
    assert moved[1] == pytest.approx(1.5, abs=1e-4)
    assert torch.allclose(moved[[0, 2]], latent.coordinates(before)[[0, 2]], atol=1e-4)
    step = (desk.scene.current.z - before) / latent.deviations[1]
    assert torch.allclose(step, latent.directions[1] * float(step @ latent.directions[1]), atol=1e-5)


def test_attributes_add_their_vector_once(desk, settings):
    """From 0 to 1 to 0.5 is half the vector, whatever lies between; undo and reset bring it back."""
    variant, before = desk.variant, desk.scene.current.z
    key = variant.attribute_sliders[0].key
    vector = variant.generator.model.attribute_vectors[key[2:]]
    desk.move({key: 1.0}, "a", settings)
    desk.move({key: 0.5}, "a", settings)
    assert torch.allclose(desk.scene.current.z, before + 0.5 * vector, atol=1e-6)
    assert variant.position(desk.scene.current.z, key, desk.scene.amounts) == 0.5
    desk.move({key: None}, "b", settings)
    assert torch.allclose(desk.scene.current.z, before, atol=1e-6)
    assert variant.position(desk.scene.current.z, key, desk.scene.amounts) == 0


def test_ranges_and_order_of_the_sliders(shop):
    variant = shop.variant("mel")
    keys = [slider.key for slider in variant.sliders("informative dimensions", 3)]
    assert keys[:3] == ["d0", "d1", "d2"]
    assert [key[:2] for key in keys[3:]] == ["a:"] * len(variant.generator.attributes)
    assert all(slider.low <= -2 and slider.high >= 2 for slider in variant.sliders(count=8) if slider.key[0] == "d")
    assert [slider.key for slider in variant.sliders("principal directions", 30)][:4] == ["p0", "p1", "p2", keys[3]]


def test_a_gesture_is_one_step_of_undo(desk, settings):
    start = desk.scene
    for step in range(5):
        desk.move({"d1": step / 10}, "first", settings)
    desk.move({"d1": 1.0}, "second", settings)
    assert desk.undo()
    assert desk.scene.current.z[1] == pytest.approx(0.4)
    assert desk.undo()
    assert desk.scene is start
    assert not desk.undo()
    assert desk.redo()
    assert desk.redo()
    assert desk.scene.current.z[1] == 1.0
    assert not desk.redo()


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e6, "x"])
def test_a_slider_takes_no_nonsense(desk, settings, value):
    scene = desk.scene
    with refused("A slider takes a number"):
        desk.move({"d1": value}, "a", settings)
    assert desk.scene is scene


def test_moves_of_another_page_are_ignored(desk, settings):
    z = desk.scene.current.z
    desk.move({"d99": 1.0, "p9": 1.0, "a:colour": 1.0, "__class__": 1.0}, "a", settings)
    assert torch.equal(desk.scene.current.z, z)


def test_locked_sliders_keep_their_place(desk, settings):
    desk.lock(["d3", "p1"], True)
    before, latent = desk.scene.current.z, desk.variant.generator.latent
    desk.move({"d3": 1.9}, "a", settings)
    assert desk.scene.current.z[3] == before[3]
    desk.draw(settings, 5)
    assert desk.scene.current.z[3] == before[3]
    assert not torch.allclose(desk.scene.current.z, before)
    desk.lock(["d3"], False)
    desk.draw(settings, 6)
    where = latent.coordinates(desk.scene.current.z)[1]
    assert float(where) == pytest.approx(float(latent.coordinates(before)[1]), abs=1e-4)
    held = desk.scene.current.z
    desk.move({"p1": None}, "c", settings)
    assert torch.equal(desk.scene.current.z, held), "a locked slider is not put back either"


# Beginning


def test_initial_is_the_reconstruction_not_the_file(desk, settings):
    scene, generator = desk.scene, desk.variant.generator
    assert torch.equal(scene.initial.z, scene.original.z)
    assert scene.initial.ids.tolist() == generator.decode(scene.original.z)[0].ids.tolist()
    assert scene.different == int((scene.initial.ids != scene.original.ids).sum())
    assert scene.nll > 0


def test_loading_keeps_the_list_and_takes_the_asked_window(desk, settings):
    desk.add("kept")
    midi = piece([*quarters(0, 8), *quarters(4, 8, 72)])
    desk.load(midi, 5, None, False, settings)
    assert [item.name for item in desk.scene.saved] == ["kept"]
    assert "bars 5-6 of 6" in desk.scene.facts
    pitches = [note.pitch for note in desk.scene.original.score.tracks[0].notes]
    assert pitches == [72 + n % 7 for n in range(8)]
    with refused("bar 1 to 6"):
        desk.load(midi, 9, None, False, settings)
    chords = piece([(n, 1, pitch) for n in range(8) for pitch in (60, 64, 67)])
    desk.load(chords, None, None, False, settings)
    assert "16 notes" in desk.scene.facts
    desk.load(piece(quarters(1, 4)), 1, None, False, settings)
    assert desk.scene.original.num_notes == 4, "a silent first bar is fine"
    desk.load(piece(quarters(0, 4)), None, None, False, settings)
    assert "1 of rest" in desk.scene.facts, "one bar is padded"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"no MIDI at all", "could not be read as MIDI"),
        (b"", "could not be read as MIDI"),
        (Score(480).dumps_midi(), "contains no notes"),
        (piece(quarters(0, 3), (3, 4)), "works in 4/4.*any metre"),
        (b"x" * 2_000_001, "limit is 2,000,000"),
        (piece([(n / 8, 0.1, 60) for n in range(20_001)]), "20,001 notes"),
        (piece([(0, 1, 60), (4 * 600, 1, 60)]), "601 bars; the limit is 512"),
    ],
)
def test_bad_files_are_told_and_change_nothing(desk, settings, data, words):
    scene = desk.scene
    with refused(words) as caught:
        desk.load(data, None, None, False, settings)
    assert desk.scene is scene
    assert "/" not in str(caught.value).replace("4/4", "").replace("3/4", "")


# The saved list


def test_a_path_joins_what_is_shown(desk, settings):
    """First and last are the displayed loops themselves; nothing is encoded again; then current is the initial one."""
    desk.move({"d1": 1.7, "d2": -1.1}, "a", settings)
    current, initial = desk.scene.current, desk.scene.initial
    desk.add()
    desk.add()
    desk.interpolate("8", "linear")
    loops = [item.loop for item in desk.scene.saved]
    assert len(loops) == 10
    assert loops[2] is current
    assert loops[9] is initial
    assert desk.scene.current is initial
    for n, loop in enumerate(loops[2:]):
        share = 1 - n / 7
        assert torch.allclose(loop.z, share * current.z + (1 - share) * initial.z, atol=1e-6)
    desk.undo()
    assert len(desk.scene.saved) == 2
    assert desk.scene.current is current


@pytest.mark.parametrize("count", ["0", "1", "2.5", "x", "999", "", "-3", None, "٣"])
def test_the_number_of_a_path_is_checked(desk, count):
    scene = desk.scene
    with refused("Choose a whole number from 2 to 32"):
        desk.interpolate(count, "linear")
    assert desk.scene is scene


def test_arranging_the_list(desk, settings):
    for name in ("a", "b", "c"):
        desk.add(name)
        desk.move({"d0": len(name)}, name, settings)

    def names():
        return [item.name for item in desk.scene.saved]

    keys = [item.key for item in desk.scene.saved]
    desk.put(keys[2], 0)
    assert names() == ["c", "a", "b"]
    desk.duplicate(keys[0])
    assert names() == ["c", "a", "a copy", "b"]
    desk.rename(keys[1], " <b>\n bold ")
    assert names()[-1] == "<b> bold"
    desk.delete(keys[0])
    assert names() == ["c", "a copy", "<b> bold"]
    saved = desk.item(keys[1]).loop
    desk.use(keys[1])
    assert desk.scene.current is saved
    with refused("no longer in the list"):
        desk.use(keys[0])
    desk.undo()
    desk.undo()
    assert names() == ["c", "a", "a copy", "<b> bold"]


def test_sampled_and_similar_loops_follow_their_seed(desk, settings):
    for _ in range(2):
        desk.sample("3", 0.5, 7, settings)
        desk.similar(2, 0.8, 9, settings)
    ids = [item.loop.ids.tolist() for item in desk.scene.saved]
    assert ids[:5] == ids[5:]
    with refused("from 1 to 16"):
        desk.sample(17, 0.5, 7, settings)
    with refused("Choose a similarity from 0 to 1"):
        desk.similar(1, 1.5, 7, settings)


def test_the_pad_has_its_corners(desk, settings):
    for value in (-1.0, 0.0, 1.0, 2.0):
        desk.move({"d0": value}, str(value), settings)
        desk.add()
    corners = [item.key for item in desk.scene.saved]
    for (x, y), value in {(0, 0): -1, (0, 1): 0, (1, 0): 1, (1, 1): 2, (0.5, 0.5): 0.5}.items():
        desk.pad(corners, x, y, f"{x}{y}", settings)
        assert float(desk.scene.current.z[0]) == pytest.approx(value, abs=1e-6)


# Files


def test_midi_stands_on_whole_bars_and_keeps_the_order(desk, settings):
    from loops_files import midi_of

    desk.add("first")
    desk.load(piece(quarters(0, 8, 72)), None, None, False, settings)
    original = desk.scene.original
    data = midi_of([original, original, original], 90.0, 73, ["a", "b", "c"])
    score = Score.from_midi(data)
    assert score.tempos[0].qpm == pytest.approx(90, abs=0.01)
    assert score.tracks[0].program == 73
    bar = 4 * score.ticks_per_quarter
    assert [marker.time // bar for marker in score.markers] == [0, 2, 4]
    starts = [note.time / score.ticks_per_quarter for note in score.tracks[0].notes]
    assert starts == [float(n) for n in range(24)]


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("my loops", "my_loops.mid"), ("../../etc/passwd", "etc_passwd.mid"), ("a.MID", "a.mid"), ("", "loops.mid"),
        ("<script>", "script.mid"), ("ñandú \u202e", "and.mid"), ("x" * 200, "x" * 60 + ".mid"), (None, "loops.mid"),
    ],
)  # fmt: skip
def test_file_names_are_tame(name, file):
    from loops_files import file_name

    assert file_name(name) == file


def _point(desk, z):
    from loops_files import z_npy

    return z_npy(desk.variant, z)


def test_points_come_back_and_foreign_ones_are_refused(desk, shop, settings):
    from loops_files import read_z, z_json, z_npy

    z = desk.scene.current.z
    for write in (z_json, z_npy):
        data = write(desk.variant, z)
        assert torch.equal(read_z(desk.variant, data), z)
        with refused("another model"):
            read_z(shop.variant("drums"), data)
    facts = json.loads(z_json(desk.variant, z))
    for change, words in (
        ({"z": [0.0] * 3}, "must be 8 numbers"),
        ({"z": [1e400] * 8}, "not finite"),
        ({"z": "abc"}, "holds no point"),
        ({"z": [[0.0] * 8]}, "must be 8 numbers"),
        ({"fingerprint": "<i>"}, "another model"),
    ):
        with refused(words):
            read_z(desk.variant, json.dumps(facts | change).encode())
    plain, pickled = io.BytesIO(), io.BytesIO()
    np.save(plain, z.numpy())
    np.save(pickled, np.array([{"z": 1}], object), allow_pickle=True)
    for data in (plain.getvalue(), pickled.getvalue(), b"[]", b"{", b"\x93NUMPY", b"", b"[" * 100_000):
        with refused("holds no point"):
            read_z(desk.variant, data)


def test_the_views_carry_true_numbers(desk, settings):
    from loops_desk import Visitor
    from loops_view import saved_list, slider_values

    z = desk.scene.current.z.clone()
    z[0] = 9.875
    desk.load_z(_point(desk, z), settings)
    value = slider_values(Visitor(), desk, "informative dimensions", 8)
    assert value["sliders"][0]["value"] == 9.875
    assert value["sliders"][0]["high"] < 9
    json.dumps(value)
    desk.add("<b>")
    assert "1 loop, 2 bars, 4.0 s" in saved_list(Visitor(), desk, 120.0, 0)["total"]


# Models


@pytest.mark.parametrize("name", ["mel", "drums", "trio"])
def test_every_kind_of_model_has_a_desk(shop, settings, name):
    from loops_desk import Desk
    from loops_files import bars_of

    desk = Desk(shop.variant(name))
    assert desk.scene.original.num_notes >= 8
    programs = {note[0] for bar in bars_of(desk.scene.original) for note in bar}
    assert programs == {"mel": {0}, "drums": {-1}, "trio": {0, 33, -1}}[name]
    desk.move({"d1": 0.5}, "a", settings)
    desk.draw(settings, 3)


def test_visitors_have_desks_of_their_own(shop, settings):
    from loops_desk import Visitor

    first, second = Visitor(), Visitor()
    first.desk(shop.variant("mel"), settings).add()
    assert len(first.desk(shop.variant("mel"), settings).scene.saved) == 1
    assert not second.desk(shop.variant("mel"), settings).scene.saved
    assert not first.desk(shop.variant("drums"), settings).scene.saved


def test_the_shop_lists_what_there_is(loops_models, tmp_path, monkeypatch):
    import loops_models as models

    shop = models.open_shop(f"{loops_models['mel']}, no-such-model, {tmp_path}")
    assert shop.names == ["mel"]
    assert "no-such-model" in shop.note
    assert str(tmp_path) not in shop.note
    with refused("no such model"):
        shop.variant("other")
    monkeypatch.setattr(models, "list_embedded", list)
    empty = models.open_shop("")
    assert empty.names == []
    with refused("MODEL_ID"):
        empty.variant()


def test_without_a_model_the_page_says_what_to_do():
    from loops_models import Shop
    from loops_ui import build_loops

    text = json.dumps(build_loops(Shop([])).get_config_file()["components"], default=str)
    assert "MODEL_ID" in text


def test_seeds_and_settings_are_checked():
    from loops_desk import seed_of, settings_of

    assert seed_of("17") == 17
    assert 0 <= seed_of("random") < 2**31
    for seed in ("-1", "2147483648", "x", "1.5"):
        with refused("Choose a seed"):
            seed_of(seed)
    with refused("temperature"):
        settings_of(3, "1", 120)
    with refused("tempo"):
        settings_of(0, "1", 500)


def test_the_folder_is_complete_as_it_is_uploaded(tmp_path):
    """Links lead to files beside this Space, so that an upload holds their content."""
    links = [path for path in SPACE.rglob("*") if path.is_symlink()]
    assert links
    assert all(path.is_file() and path.resolve().is_relative_to(SPACE.parent) for path in links)
    copied = tmp_path / "space"
    shutil.copytree(SPACE, copied, ignore=shutil.ignore_patterns("__pycache__", "*.pyi"))
    assert not any(path.is_symlink() for path in copied.rglob("*"))
    for name in ("README.md", "app.py", "requirements.txt", "packages.txt", "static/roll.js"):
        assert (copied / name).is_file()
    assert (copied / "README.md").read_text().startswith("---\ntitle: Symbolic Loops\n")
    assert importlib.util.find_spec("loops_ui").origin.startswith(str(SPACE))
