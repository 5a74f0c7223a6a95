"""The grammar: its rules one by one, and that real encodings satisfy it."""

import itertools

import numpy as np
import pytest

from partimento.tokenization import Grammar, GrammarError
from partimento.tokenization.grammar import TRANSITIONS, TRANSITIONS_WITH_METRES, GrammarState
from partimento.tokenization.vocabulary import TokenType

NOTE = "Pitch_60 Velocity_99 Duration_1.0.12"
HEAD = "BOS_None Bar_None Position_0 Tempo_100.92 Program_0"


def ids_of(processor, text: str) -> list[int]:
    return [processor.vocabulary.ids[token] for token in text.split()]


LEGAL = [
    "",
    "PAD_None PAD_None BOS_None",
    "BOS_None Bar_None Bar_None EOS_None PAD_None PAD_None",
    "BOS_None Genre_Jazz Key_A-minor Inst_Piano Inst_Drums Bars_8 Bar_None",
    f"{HEAD} {NOTE} EOS_None",
    f"Bar_None Position_3 Program_0 {NOTE} Position_4 {NOTE} Bar_None Position_0 {NOTE} Program_1 {NOTE} EOS_None",
    f"{HEAD} {NOTE} Program_-1 PitchDrum_60 Velocity_99 Duration_1.0.12 Program_0 Pitch_61",
    "BOS_None Bar_None Position_0 Tempo_100.92 Position_1 Tempo_24.0 Bar_None Position_0 Tempo_100.92 EOS_None",
]
ILLEGAL = [  # text, place of the first illegal token, words of the message
    ("UNK_None", 0, "BOS_None; Bar_None"),
    ("PAD_None BOS_None PAD_None", 2, "Bar_None"),
    ("BOS_None EOS_None", 1, "Genre_Jazz .. Genre_New-Age (4 tokens)"),
    ("BOS_None Position_0", 1, "Bar_None"),
    ("BOS_None Key_A-minor Genre_Jazz", 2, "TempoBin_0"),
    ("BOS_None Genre_Jazz Genre_Pop", 2, "Artist_Scott-Joplin"),
    ("BOS_None Inst_Bass Inst_Bass", 2, "Inst_Strings .. Inst_Drums"),
    ("BOS_None Inst_Bass Inst_Piano", 2, "Density_0"),
    ("BOS_None Bar_None Genre_Jazz", 2, "Position_0 .. Position_47 (48 tokens); Bar_None; EOS_None"),
    ("BOS_None Bar_None Tempo_24.0", 2, "Position_0"),
    (f"{HEAD} {NOTE} Position_0", 8, "Position_1"),
    ("BOS_None Bar_None Position_5 Tempo_24.0 Position_4", 4, "Position_6"),
    ("BOS_None Bar_None Position_5 EOS_None", 3, "Tempo_24.0"),
    ("BOS_None Bar_None Position_5 Tempo_24.0 Tempo_25.7", 4, "Program_0"),
    ("BOS_None Bar_None Position_5 Tempo_24.0 Position_6 Tempo_24.0", 5, "Tempo_25.7"),
    ("BOS_None Bar_None Position_5 Pitch_60", 3, "Program_0"),
    (f"{HEAD} PitchDrum_40", 5, "Pitch_0"),
    ("BOS_None Bar_None Position_0 Program_-1 Pitch_60", 4, "PitchDrum_0"),
    (f"{HEAD} {NOTE} Program_0", 8, "Program_1"),
    (f"{HEAD} Program_1", 5, "Pitch_0"),
    (f"{HEAD} Pitch_60 Duration_1.0.12", 6, "Velocity_3"),
    (f"{HEAD} Pitch_60 Velocity_99 EOS_None", 7, "Duration_0.1.12"),
    (f"{HEAD} {NOTE} {NOTE}", 8, "Pitch_0"),
    (f"{HEAD} {NOTE} Program_1 {NOTE} Program_0 {NOTE}", 13, "Pitch_0"),
    (f"{HEAD} {NOTE} EOS_None EOS_None", 9, "PAD_None"),
]


@pytest.mark.parametrize("text", LEGAL)
def test_legal(processor, text):
    processor.validate(ids_of(processor, text))


@pytest.mark.parametrize(("text", "place", "words"), ILLEGAL)
def test_illegal(processor, text, place, words):
    with pytest.raises(GrammarError) as caught:
        processor.validate(ids_of(processor, text))
    assert caught.value.position == place
    assert caught.value.token == text.split()[place]
    assert words in caught.value.expected


def test_metres(processors):
    processor = processors["metres"]
    processor.validate(
        ids_of(processor, "Bar_None TimeSig_3/8 Position_35 Tempo_24.0 Bar_None TimeSig_12/8 Position_143")
    )
    for text, place in (
        ("BOS_None Bar_None Position_0", 2),
        ("BOS_None Bar_None EOS_None", 2),
        ("BOS_None Bar_None TimeSig_3/8 Position_36", 3),
        ("BOS_None Bar_None TimeSig_3/8 TimeSig_3/8", 3),
    ):
        with pytest.raises(GrammarError) as caught:
            processor.validate(ids_of(processor, text))
        assert caught.value.position == place


def test_completeness_and_foreign_ids(processor):
    grammar, ids = processor.grammar, ids_of(processor, f"{HEAD} {NOTE}")
    with pytest.raises(GrammarError, match="token 8 is the end"):
        grammar.validate(ids, complete=True)
    grammar.validate([*ids, processor.eos_token_id], complete=True)
    with pytest.raises(GrammarError, match="ids 0 to"):
        grammar.validate([1, len(processor.vocabulary)])


def test_table_covers_every_type():
    for table in (TRANSITIONS, TRANSITIONS_WITH_METRES):
        reachable = {kind for kinds in table.values() for kind in kinds}
        without = {TokenType.UNK} | (
            set() if TokenType.TIME_SIGNATURE in table[TokenType.BAR] else {TokenType.TIME_SIGNATURE}
        )
        assert reachable == set(TokenType) - without
        assert all(table[kind] for kind in reachable - {TokenType.PAD})


def test_every_prefix_of_a_random_sequence_can_go_on(any_processor):
    rng, grammar = np.random.default_rng(2), any_processor.grammar
    for _ in range(5):
        state, ids = GrammarState(), grammar.random_sequence(rng, num_bars=2)
        for token in ids:
            legal = grammar.legal_ids(state)
            assert token in legal
            assert all(grammar.types[other] in grammar.transitions[state.phase] for other in legal)
            grammar.advance(state, token)
        assert grammar.legal_ids(state) == [any_processor.pad_token_id]


def test_stricter_than_miditoks_type_graph(processor):
    """What the grammar accepts, MidiTok's own type check accepts, too."""
    miditok, rng = processor.make_miditok(), np.random.default_rng(3)
    for _ in range(20):
        ids = [token for token in processor.grammar.random_sequence(rng, num_bars=3) if token >= processor.bar_token_id]
        body = [token for token in ids if token < processor.vocabulary.base_size]
        tokens = [processor.vocabulary.tokens[token] for token in body]
        types = [token.partition("_")[0] for token in tokens]
        graph = miditok.tokens_types_graph
        assert all(after in graph[before] for before, after in itertools.pairwise(types))


def test_grammar_of_a_processor_or_a_vocabulary(processor):
    assert Grammar(processor).types == Grammar(processor.vocabulary).types
