"""A small tokenised corpus, written with the real processor, and helpers to run the training script in this process."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from accelerate.state import AcceleratorState, GradientState, PartialState

from partimento.tokenization import MidiProcessor
from partimento.training import train as train_script
from partimento.training.run_log import read_log

TIMES = ("seconds", "tokens_per_second", "validation_seconds")


def make_song(processor: MidiProcessor, rng: np.random.Generator, num_bars: int) -> list[int]:
    """A grammatical song of one repeated bar: piano, bass from bar 3 on, tempo changes, one empty bar in six."""
    conditions = {"genre": str(rng.choice(["Jazz", "Rock"])), "key": "C-major", "tempo": 120.0, "bars": num_bars}
    names = []
    root = int(rng.integers(50, 60))
    program = None
    for bar in range(num_bars):
        names.append("Bar_None")
        if bar % 6 == 5:
            continue
        for beat in range(4):
            names.append(f"Position_{12 * beat}")
            if beat == 0 and bar % 8 == 0:
                names.append(TEMPOS[bar // 8 % 2])
            for number, pitch in ((0, root + 12), (33, root - 12)):
                if (number and bar < 2) or (number == 0 and bar % 5 == 4):
                    continue
                if program != number:
                    names.append(f"Program_{number}")
                    program = number
                names += [f"Pitch_{pitch + beat}", "Velocity_99", "Duration_1.0.12"]
    ids = [processor.vocabulary.ids[name] for name in names]
    return [processor.bos_token_id, *processor.condition_ids(conditions), *ids, processor.eos_token_id]


TEMPOS: list[str] = []


@pytest.fixture(scope="session")
def train_processor() -> MidiProcessor:
    processor = MidiProcessor.from_preset("multitrack", genres=("Jazz", "Rock"))
    TEMPOS[:] = [name for name in processor.vocabulary.tokens if name.startswith("Tempo_")][20:22]
    return processor


@pytest.fixture(scope="session")
def train_corpus(tmp_path_factory, train_processor) -> Path:
    """Folder with `tokenized/{train,validation}-*.parquet` (two training shards) and `processor/`."""
    folder = tmp_path_factory.mktemp("corpus")
    train_processor.save_pretrained(folder / "processor")
    (folder / "tokenized").mkdir()
    rng = np.random.default_rng(7)
    songs = {
        "train-00000-of-00002": [make_song(train_processor, rng, int(n)) for n in rng.integers(2, 24, 20)],
        "train-00001-of-00002": [make_song(train_processor, rng, int(n)) for n in rng.integers(2, 24, 20)],
        "validation-00000-of-00001": [make_song(train_processor, rng, int(n)) for n in rng.integers(2, 24, 7)],
    }
    for name, rows in songs.items():
        table = pa.table(
            {
                "input_ids": pa.array(rows, type=pa.list_(pa.int32())),
                "md5": [f"{name[:5]}{name[9]}{i:02d}" for i in range(len(rows))],
            }
        )
        metadata = {"partimento.vocab_hash": train_processor.vocab_hash}
        pq.write_table(table.replace_schema_metadata(metadata), folder / "tokenized" / f"{name}.parquet")
    return folder


@pytest.fixture
def recipe(tmp_path, train_corpus):
    """Write a recipe of a two-layer Museformer with changes such as `{"train.max_updates": 4}`; return its path."""

    def write(name: str = "run", **changes) -> Path:
        content = {
            "model": {
                "model_type": "museformer",
                "preset": "tiny",
                "config": {"dropout": 0.1, "attention_dropout": 0.0, "hidden_size": 32, "intermediate_size": 64},
            },
            "data": {"crop_length": 160, "max_tokens_per_batch": 480, "validation_length": 160},
            "train": {
                "batches_per_update": 2,
                "max_updates": 10,
                "learning_rate": 3e-3,
                "lr_schedule": "constant",
                "eval_every": 4,
                "save_every": 4,
                "num_threads": 1,
            },
        }
        content["data"]["corpus"] = str(train_corpus)
        content["train"]["output"] = str(tmp_path / name)
        for key, value in changes.items():
            group, _, rest = key.partition("__")
            if rest.startswith("config__"):
                content[group]["config"][rest.removeprefix("config__")] = value
            elif rest:
                content[group][rest] = value
            else:
                content[group] = value
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        return path

    return write


@pytest.fixture
def fresh_accelerator(monkeypatch):
    """Accelerate keeps its state process-wide: forget it, use the CPU, and restore torch's thread count afterwards."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")

    def reset() -> None:
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        PartialState._reset_state()

    threads = torch.get_num_threads()
    reset()
    yield reset
    reset()
    torch.set_num_threads(threads)


@pytest.fixture
def run_training(fresh_accelerator):
    """Call the script's `main` as a new process would; return its exit status."""

    def run(config: Path, *options: str) -> int:
        fresh_accelerator()
        return train_script.main(["--config", str(config), *options])

    return run


def read_run(folder: Path) -> list[dict]:
    """The log without clocks and without events."""
    entries = [entry for entry in read_log(folder / "log.jsonl") if entry["kind"] != "event"]
    return [{key: value for key, value in entry.items() if key not in TIMES} for entry in entries]


@pytest.fixture
def logged():
    return read_run


@pytest.fixture
def facts_of():
    """Read a JSON file of a run."""
    return lambda path: json.loads(Path(path).read_text(encoding="utf-8"))
