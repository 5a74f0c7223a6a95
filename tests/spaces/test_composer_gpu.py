"""The Composer Space on ZeroGPU, as far as it can be told without a GPU: another process, a quota, and none of both."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SPACE = Path(__file__).resolve().parents[2] / "spaces" / "composer"
if not SPACE.is_dir():
    pytest.skip("runs outside the checkout: spaces/ is not there", allow_module_level=True)
SCRIPT = """
import json, os, sys, threading, time
import composer_gpu, spaces
from composer_engine import RequestError, load_composer
composer_gpu.DEVICE = "cpu"
composer = load_composer()[0]
request = {"bars": 3, "num_outputs": 1, "seed": 5, "instruments": ["piano"]}

def play(runs):
    runs = list(runs)
    last = runs[-1]
    grown = [len(run.bars[0]) for run in runs]
    midi = [(piece.ids, piece.seed, piece.complete, piece.score.note_num()) for piece in last.pieces]
    return {"pieces": midi, "note": last.note, "model": last.model, "stopped": last.stopped, "states": len(runs)}

def stopped(request):
    stop, began = threading.Event(), 0.0
    for run in composer.compose(request, stop):
        if len(run.bars[0]) >= 2 and not began:
            began = time.monotonic()
            stop.set()
    return {"seconds": time.monotonic() - began, "stopped": run.stopped, "bars": run.pieces[0].num_bars,
            "ids": run.pieces[0].ids[-1], "notes": run.pieces[0].score.note_num()}

found = {"here": play(composer.compose(request, threading.Event()))}
composer_gpu.borrow_gpu(composer)
calls = spaces.LOG
spaces.VISITOR.set("a visitor")
found["there"] = play(composer.compose(request, threading.Event()))
found["stopped"] = stopped(request | {"bars": 64})
found["again"] = play(composer.compose(request, threading.Event()))
midi = composer.open(next(iter(list(composer.compose(request, threading.Event()))[-1].pieces)).score.dumps_midi()).midi
found["continued"] = play(composer.proceed(midi, {"bars": 1, "num_outputs": 1, "seed": 1}, threading.Event()))
found["rewritten"] = play(composer.rewrite(midi, 2, 2, {"seed": 1}, threading.Event()))
for name, settings in (("unknown", {"genre": "Polka"}), ("fine", {})):
    try:
        play(composer.compose(request | settings, threading.Event()))
        found[name] = ""
    except RequestError as refusal:
        found[name] = str(refusal)
titles = {"quota": "ZeroGPU quota exceeded", "none": "ZeroGPU queue timeout", "else": "ZeroGPU worker error"}
for name, title in titles.items():
    spaces.REFUSAL[:] = [(title, "You have exceeded your free ZeroGPU quota (17s requested vs. 3s left).")]
    try:
        found[name] = play(composer.compose(request, threading.Event()))
    except RequestError as refusal:
        found[name] = str(refusal)
found["calls"], found["pid"] = calls, os.getpid()
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What the script reports of a Space that believes that it is on ZeroGPU."""
    folder = tmp_path_factory.mktemp("zero")
    (folder / "spaces").mkdir()
    shutil.copyfile(Path(__file__).with_name("zero_gpu_stand_in.py"), folder / "spaces" / "__init__.py")
    environment = os.environ | {"SPACES_ZERO_GPU": "true", "OMP_NUM_THREADS": "1"}
    environment |= {"PYTHONPATH": os.pathsep.join([str(SPACE), str(folder)])}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, cwd=folder, env=environment, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_other_process_writes_the_same_piece(found):
    assert found["there"]["pieces"] == found["here"]["pieces"] == found["again"]["pieces"]
    assert found["there"]["note"] == ""
    assert found["there"]["states"] > 1  # bars arrive on the way
    pids = {call["pid"] for call in found["calls"] if "pid" in call}
    assert len(pids) == 1
    assert found["pid"] not in pids
    assert found["continued"]["pieces"][0][3] > found["here"]["pieces"][0][3]
    assert found["rewritten"]["pieces"][0][2]


def test_the_quota_is_the_visitors_and_little_is_asked(found):
    assert {call["visitor"] for call in found["calls"]} == {"a visitor"}
    seconds = [call["seconds"] for call in found["calls"]]
    assert seconds[0] < 20 < seconds[1] <= 110  # 3 bars, 64 bars


def test_stop_reaches_the_other_process_and_keeps_finished_bars(found):
    assert found["stopped"]["stopped"]
    assert 2 <= found["stopped"]["bars"] < 64
    assert found["stopped"]["notes"] > 0
    assert found["stopped"]["seconds"] < 10  # a quarter of a second and a token; here on a busy machine


def test_a_refusal_crosses_over_as_its_sentence(found):
    assert "Polka" in found["unknown"]
    assert found["fine"] == ""


def test_without_quota_the_small_model_goes_on_here(found):
    assert found["quota"]["note"] == "The free GPU quota is used up; continuing on CPU with the small model. "
    assert found["none"]["note"] == "No GPU can be had now; continuing on CPU with the small model. "
    for name in ("quota", "none"):
        assert found[name]["pieces"] == found["here"]["pieces"]
        assert found[name]["model"] == "museformer-small"
    assert found["else"] == "Something went wrong on our side. Please try again."


def test_without_the_package_the_decorator_changes_nothing():
    code = """
import sys
sys.modules["spaces"] = None
from composer_gpu import GPU, ZERO_GPU
@GPU
def one(): return 1
@GPU(duration=30)
def two(): return 2
@GPU(duration=lambda: 3)
def three(): yield 3
assert (one(), two(), list(three()), ZERO_GPU) == (1, 2, [3], False)
"""
    environment = os.environ | {"PYTHONPATH": str(SPACE)}
    environment.pop("SPACES_ZERO_GPU", None)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
