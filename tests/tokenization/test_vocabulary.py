"""Vocabulary: counts, ids equal to MidiTok's, plain saving and loading."""

import json
import pickle
import subprocess
import sys

import pytest
from miditok import TokenizerConfig
from transformers import AutoProcessor, AutoTokenizer

from partimento.tokenization import MidiProcessor
from partimento.tokenization.vocabulary import SPECIAL_TOKENS, TokenType

COUNTS = {"multitrack": 598, "six_track": 475, "metres": 702}


@pytest.mark.parametrize("preset", COUNTS)
def test_counts_and_ids_equal_miditok(processors, preset):
    processor = processors[preset]
    miditok = processor.make_miditok()
    assert len(miditok) == processor.vocabulary.base_size == COUNTS[preset]
    exported = processor.tokenizer.get_vocab()
    assert {token: exported[token] for token in miditok.vocab} == miditok.vocab
    assert processor.vocabulary.tokens[:5] == (*SPECIAL_TOKENS, "Bar_None")
    sizes = {kind: len(processor.vocabulary.of_type(kind)) for kind in TokenType}
    assert sizes[TokenType.PITCH] == sizes[TokenType.DRUM] == 128
    assert sizes[TokenType.DURATION] == 96
    assert sizes[TokenType.VELOCITY] == sizes[TokenType.TEMPO] == 32
    assert sizes[TokenType.POSITION] == (144 if preset == "metres" else 48)


def test_types_are_consecutive_and_values_ascend(any_processor):
    vocabulary = any_processor.vocabulary
    for kind in TokenType:
        ids = vocabulary.of_type(kind).tolist()
        assert ids == list(range(ids[0], ids[0] + len(ids))) if ids else kind == TokenType.TIME_SIGNATURE
    for values in (vocabulary.durations, vocabulary.velocities, vocabulary.tempos):
        assert values.tolist() == sorted(set(values.tolist()))
    assert vocabulary.durations[[0, 47, 48, 95]].tolist() == [1, 48, 51, 192]


def test_quantisation_tables_equal_miditok(processor):
    import numpy as np
    from miditok.utils.utils import np_get_closest

    vocabulary, miditok = processor.vocabulary, processor.make_miditok()
    velocities = np_get_closest(miditok.velocities, np.arange(1, 128))
    assert (vocabulary.velocities[vocabulary.nearest_velocity[1:]] == velocities).all()
    durations = np_get_closest(np.array(vocabulary.durations), np.arange(1, 193))
    assert (vocabulary.durations[vocabulary.nearest_duration[1:]] == durations).all()
    mspq = np.arange(200_000, 4_000_000, 777)
    closest = np_get_closest(miditok._tempos_mspq, mspq)
    assert np.allclose(60e6 / vocabulary.tempos[vocabulary.nearest_tempo(mspq)], closest)


def test_save_and_reload_without_remote_code(any_processor, tmp_path):
    any_processor.save_pretrained(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {
        "tokenizer.json",
        "tokenizer_config.json",
        "processor_config.json",
        "miditok.json",
    }
    loaded, tokenizer = MidiProcessor.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.vocab_hash == any_processor.vocab_hash
    assert loaded.to_dict() == any_processor.to_dict()
    assert loaded.miditok_json == any_processor.miditok_json
    assert tokenizer.get_vocab() == any_processor.tokenizer.get_vocab()
    assert tokenizer.padding_side == "left"
    special = (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id)
    assert special == (0, 1, 2, 3)
    loaded.make_miditok()
    automatic = AutoProcessor.from_pretrained(tmp_path)
    assert type(automatic) is MidiProcessor
    assert automatic.miditok_json == any_processor.miditok_json


def test_autotokenizer_in_a_process_without_this_package(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    code = (
        "import sys; sys.modules['partimento'] = sys.modules['miditok'] = None\n"
        "from transformers import AutoTokenizer\n"
        f"tokenizer = AutoTokenizer.from_pretrained({str(tmp_path)!r})\n"
        "print(len(tokenizer), tokenizer('Genre_Jazz Bar_None').input_ids)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    jazz = processor.vocabulary.ids["Genre_Jazz"]
    assert run.stdout.split(maxsplit=1) == [str(len(processor.vocabulary)), f"[1, {jazz}, 4, 2]\n"]


def test_text_becomes_ids_and_back(processor):
    tokenizer, tokens = processor.tokenizer, processor.vocabulary.tokens
    assert tokenizer(" ".join(tokens[4:])).input_ids == [1, *range(4, len(tokens)), 2]
    assert tokenizer("nonsense").input_ids == [1, 3, 2]
    ids = [1, processor.vocabulary.ids["Genre_Pop-Rock"], 4, 261, 2]
    assert tokenizer.decode(ids, skip_special_tokens=True).split() == ["Bar_None", "Position_0"]


def test_labels_survive_miditoks_name_rule(processor):
    vocabulary = processor.vocabulary
    labels = [vocabulary.tokens[index] for index in vocabulary.of_type(TokenType.CONDITION)]
    kept = TokenizerConfig(special_tokens=[*(token.split("_")[0] for token in SPECIAL_TOKENS), *labels]).special_tokens
    assert kept == [*SPECIAL_TOKENS, *labels]
    assert processor.labels("genre") == ["Jazz", "Pop", "Pop-Rock", "New-Age"]
    assert processor.labels("artist") == ["Scott-Joplin"]


def test_new_labels_move_no_id(processor):
    extended = processor.with_labels(genres=["Jazz", "Ska"], moods=["Q3"])
    assert extended.vocabulary.tokens == (*processor.vocabulary.tokens, "Genre_Ska", "Mood_Q3")
    assert extended.vocab_hash != processor.vocab_hash
    assert extended.tokenizer.get_vocab()["Genre_Ska"] == len(processor.vocabulary)


def test_model_config_is_checked(processor, processors, tmp_path):
    facts = processor.model_config_kwargs()
    assert facts == {
        "vocab_size": len(processor.vocabulary),
        "bar_token_id": 4,
        "position_token_start": 261,
        "num_positions": 48,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    processor.check_model_config(facts | {"vocab_size": 1024})
    with pytest.raises(ValueError, match="num_positions=48, the tokenizer 144"):
        processors["metres"].check_model_config(facts | {"vocab_size": 1024})
    (tmp_path / "config.json").write_text(json.dumps(facts | {"bar_token_id": 7}))
    with pytest.raises(ValueError, match="bar_token_id=7"):
        processor.save_pretrained(tmp_path)


def test_foreign_miditok_file_and_unknown_settings_are_refused(processor, processors, tmp_path):
    processor.save_pretrained(tmp_path)
    (tmp_path / "miditok.json").write_text(processors["six_track"].miditok_json)
    with pytest.raises(ValueError, match="another vocabulary"):
        MidiProcessor.from_pretrained(tmp_path).make_miditok()
    with pytest.raises(ValueError, match="multitrack, six_track, metres"):
        MidiProcessor.from_preset("octuple")
    with pytest.raises(ValueError, match="7 ascending values"):
        MidiProcessor.from_preset("multitrack", tempo_edges=(1, 2, 3))
    with pytest.raises(ValueError, match="bar_edges belong to the vocabulary"):
        MidiProcessor.from_preset("multitrack", bar_edges=(4, 8))


def test_processor_survives_pickling(processor, midi_files):
    ids = processor.encode(midi_files[0])
    assert pickle.loads(pickle.dumps(processor)).encode(midi_files[0]) == ids


def test_import_does_not_load_miditok():
    code = "import partimento.tokenization, sys; assert 'miditok' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
