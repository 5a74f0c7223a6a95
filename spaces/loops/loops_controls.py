"""The layout of the Loops page."""

from __future__ import annotations

import html

import gradio as gr
from composer_files import NO_WAV, can_render
from loops_components import Deck, FreshRoll, Pad, SavedList, Sliders
from loops_desk import METHODS, Visitor
from loops_files import SAMPLE_NAMES
from loops_models import FEWEST_SLIDERS, MOST_SLIDERS, USUAL_SLIDERS, Shop, Variant

from partimento.tokenization.general_midi import program_name

USUAL, HIGHEST = "the usual one", "all tracks, highest notes"
INITIAL = ("initial", "initial")
NARROW = 120
LOCKS = "Locked sliders keep their place when you reset, draw a new loop, turn an attribute, vary, or use the pad."


class Controls:
    """All components of the page, in the order of the page; made inside a `gr.Blocks`."""

    def __init__(self, shop: Shop, variant: Variant):
        self.banner = gr.Markdown(banner_of(shop, variant), elem_id="banner")
        self.visitor = gr.State(Visitor(), time_to_live=3600)
        self._start(shop)
        self.status = gr.Markdown("Ready.", elem_id="status")
        self.roll = FreshRoll(elem_id="roll")
        self.deck = Deck(elem_id="deck")
        with gr.Row():
            self.undo = gr.Button("Undo", elem_id="undo", size="sm", min_width=80)
            self.redo = gr.Button("Redo", elem_id="redo", size="sm", min_width=80)
            self.add = gr.Button("Add to the list", variant="primary", elem_id="add", size="sm", min_width=80)
            self.here = gr.Button("Start from here", elem_id="here", size="sm", min_width=80)
        self._sliders(variant)
        self.references = FreshRoll(elem_id="references")
        self._list()
        self._studio()

    def _start(self, shop: Shop) -> None:
        with gr.Row():
            self.model = gr.Dropdown(shop.names, value=shop.names[0], label="Model", elem_id="model", min_width=160)
            self.seed = gr.Textbox("random", label="Seed (a number, or random)", elem_id="seed", min_width=NARROW)
            self.new = gr.Button("New loop", variant="primary", elem_id="new", min_width=NARROW)
        with gr.Accordion("Begin with music", open=False, elem_id="begin"):
            with gr.Row():
                self.sample = gr.Radio(list(SAMPLE_NAMES), value=SAMPLE_NAMES[0], label="Samples", elem_id="sample")
                self.upload = gr.UploadButton("Open MIDI files", file_count="multiple", elem_id="upload",
                                              file_types=[".mid", ".midi"])  # fmt: skip
            with gr.Row():
                self.file = gr.Dropdown([], label="File", elem_id="file", min_width=160)
                self.bar = gr.Number(0, label="First bar (0: the first usable)", precision=0, minimum=0, elem_id="bar",
                                     min_width=NARROW)  # fmt: skip
                self.track = gr.Dropdown([USUAL, HIGHEST], value=USUAL, label="Melody from", elem_id="track",
                                         min_width=160)  # fmt: skip
                self.any_metre = gr.Checkbox(False, label="Any metre", elem_id="any_metre", min_width=NARROW)
                self.window = gr.Button("Use this window", elem_id="window", min_width=NARROW)
        self.facts = gr.Markdown(elem_id="facts")

    def _sliders(self, variant: Variant) -> None:
        with gr.Row():
            modes = list(variant.modes)
            self.mode = gr.Radio(modes, value=modes[0], label="Sliders", elem_id="mode", min_width=200)
            self.count = gr.Slider(FEWEST_SLIDERS, MOST_SLIDERS, value=USUAL_SLIDERS, step=1, label="How many",
                                   elem_id="count", min_width=140)  # fmt: skip
            self.temperature = gr.Slider(0, 2, value=0, step=0.05, label="Temperature (0: the likeliest notes)",
                                         elem_id="temperature", min_width=140)  # fmt: skip
        self.active = gr.Checkbox(False, label="A slider for every active dimension", elem_id="active")
        self.sliders = Sliders(elem_id="sliders")
        with gr.Row():
            self.reset = gr.Button("Reset all sliders", elem_id="reset", size="sm", min_width=NARROW)
        gr.Markdown(f"Double-click or Delete resets one slider; ▲ and ▼ stand beyond its ends. {LOCKS}")

    def _list(self) -> None:
        gr.Markdown("### Saved loops")
        self.saved = SavedList(elem_id="saved")
        with gr.Row():
            self.steps = gr.Textbox("8", label="Loops of a path (2 to 32)", elem_id="steps", min_width=NARROW)
            self.method = gr.Radio(list(METHODS), value=METHODS[0], label="Path", elem_id="method", min_width=140)
            self.goal = gr.Dropdown([INITIAL], value="initial", label="From current to", elem_id="goal", min_width=140)
            self.interpolate = gr.Button("Interpolate", elem_id="interpolate", min_width=NARROW)
        with gr.Row():
            self.name = gr.Textbox("loops", label="File name", max_length=60, elem_id="name", min_width=140)
            self.tempo = gr.Slider(40, 240, value=120, step=1, label="Tempo", elem_id="tempo", min_width=140)
            programs = [(f"{number + 1} {program_name(number)}", number) for number in range(128)]
            self.program = gr.Dropdown(programs, value=0, label="Instrument of the melody", elem_id="program",
                                       min_width=160)  # fmt: skip
        with gr.Row():
            self.save_all = gr.Button("Save all", elem_id="save_all", size="sm", min_width=90)
            self.save_current = gr.Button("Save current", elem_id="save_current", size="sm", min_width=90)
            self.wav = gr.Button("WAV of all" if can_render() else NO_WAV, interactive=can_render(), elem_id="wav",
                                 size="sm", min_width=90)  # fmt: skip
            self.clear = gr.Button("Empty the list", elem_id="clear", size="sm", min_width=90)
        self.downloads = gr.HTML(elem_id="downloads", elem_classes="downloads")

    def _studio(self) -> None:
        with gr.Accordion("Sample, vary, mix", open=False, elem_id="studio"):
            with gr.Row():
                self.many = gr.Textbox("4", label="How many (1 to 16)", elem_id="many", min_width=NARROW)
                self.heat = gr.Slider(0, 2, value=0.5, step=0.05, label="Temperature of samples", elem_id="heat",
                                      min_width=140)  # fmt: skip
                self.draw = gr.Button("Sample into the list", elem_id="draw", min_width=NARROW)
                self.likeness = gr.Slider(0, 1, value=0.8, step=0.01, label="Similarity", elem_id="likeness",
                                          min_width=140)  # fmt: skip
                self.similar = gr.Button("Similar into the list", elem_id="similar", min_width=NARROW)
            with gr.Row():
                with gr.Column(min_width=200):
                    gr.Markdown("**Palette**: a point between four loops becomes current.")
                    self.pad = Pad(elem_id="pad")
                with gr.Column(min_width=200):
                    places = ("top left", "bottom left", "top right", "bottom right")
                    self.corners = [
                        gr.Dropdown([INITIAL], value="initial", label=f"{letter}: {place}", elem_id=f"corner_{letter}",
                                    min_width=140)
                        for letter, place in zip("ABCD", places)
                    ]  # fmt: skip
        with gr.Accordion("Points of the latent space", open=False, elem_id="points"), gr.Row():
            self.z_json = gr.Button("Save z (.json)", elem_id="z_json", size="sm", min_width=NARROW)
            self.z_npy = gr.Button("Save z (.npy)", elem_id="z_npy", size="sm", min_width=NARROW)
            self.z_open = gr.UploadButton("Open z", type="binary", file_types=[".json", ".npy"], elem_id="z_open",
                                          size="sm", min_width=NARROW)  # fmt: skip


def banner_of(shop: Shop, variant: Variant) -> str:
    """What the page says of the model."""
    active = f", {variant.num_active} of them active" if variant.generator.latent is not None else ""
    return html.escape(
        f"{shop.note}Model {variant.name}: {variant.title}, {variant.parameters / 1e6:.1f} million parameters, "
        f"{variant.z_size} latent dimensions{active}. {variant.data}"
    ).strip()
