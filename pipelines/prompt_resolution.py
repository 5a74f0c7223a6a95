"""From single findings to one request: numbers before words, contradictions, what the model does not know."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from partimento.pipelines.instruments import choose_programs, programs_of, usual_program
from partimento.pipelines.prompt_scan import Finding
from partimento.pipelines.prompt_tables import Lexicon, fold
from partimento.tokenization import FAMILY_PROGRAMS
from partimento.tokenization.conditions import KEYS
from partimento.tokenization.general_midi import program_name

if TYPE_CHECKING:
    from partimento.pipelines.prompt import PromptReading

__all__ = ["resolve_findings"]

_TEMPO_OF_SECONDS = 120.0  # quarters per minute behind "30 seconds" when no tempo is named
_TONIC = {"minor": "A", "major": "C"}  # of a mode without a tonic


def resolve_findings(reading: PromptReading, findings: Sequence[Finding], lexicon: Lexicon) -> None:
    """Fills conditions, programs, without, matches, contradictions and warnings of `reading`."""
    _Resolution(reading, findings, lexicon).run()


class _Resolution:
    def __init__(self, reading: PromptReading, findings: Sequence[Finding], lexicon: Lexicon):
        self.reading, self.lexicon, self.processor = reading, lexicon, lexicon.processor
        self.asked = [finding for finding in findings if not finding.negated]
        self.refused = [finding for finding in findings if finding.negated]
        self.open_moods: list[Finding] = []

    def run(self) -> None:
        groups = [finding for finding in self.asked if "genre" in finding.data and finding.slot == "group"]
        for group in groups:
            entry = self.lexicon.content.get(group.data["genre"])
            if entry and not self.of("genre"):
                self.asked.append(Finding("genre", entry.data, group.words))
        for slot in ("genre", "artist", "mood"):
            self.labels(slot)
        self.key()
        self.tempo()
        self.density()
        self.bars()
        self.instruments()
        if self.reading.unmatched and not self.of("genre") and self.processor.labels("genre"):
            known = ", ".join(self.processor.labels("genre")[:20])
            self.reading.warnings.append(f"no genre was understood; this model knows: {known}")
        for finding in self.of("metre"):
            if finding.data != "4/4" and not self.processor.vocabulary.has_metres:
                self.reading.warnings.append(f"{finding.words}: this model writes 4/4")
                self.reading.unmatched.append(finding.words)

    def of(self, slot: str) -> list[Finding]:
        return [finding for finding in self.asked if finding.slot == slot]

    def match(self, finding: Finding, slot: str, value, note: str = "") -> None:
        from partimento.pipelines.prompt import PromptMatch

        notes = ", ".join(text for text in (finding.note, note) if text)
        self.reading.matches.append(PromptMatch(finding.words, slot, value, notes))

    def first(self, slot: str, findings: list[tuple[Finding, object]], note: str = "") -> None:
        """The first of several values; different ones are reported."""
        finding, value = findings[0]
        self.reading.conditions[slot] = value
        self.match(finding, slot, value, note)
        for other, different in findings[1:]:
            if different == value:
                self.match(other, slot, value)
            else:
                self.reading.contradictions.append(
                    f"{slot}: {finding.words!r} and {other.words!r} cannot both be; {finding.words!r} counts"
                )

    def labels(self, slot: str) -> None:
        known = self.processor.labels(slot)
        refused = {label for f in self.refused if f.slot == slot for label in f.data["labels"][:1]}
        found: list[tuple[Finding, object]] = []
        for finding in self.of(slot):
            label = next((label for label in finding.data["labels"] if label in known), None)
            if label is None and slot == "mood":
                self.open_moods.append(finding)
            elif label is None:
                self.missing_label(slot, finding, known)
            elif label in refused or set(finding.data["labels"][:1]) & refused:
                self.reading.contradictions.append(
                    f"{slot}: {finding.words!r} is asked for and refused; no {slot} counts"
                )
            else:
                found.append((finding, label))
        if found:
            label, words = str(found[0][1]), found[0][0].words
            said = fold(f"{words} {found[0][0].note}").replace(" ", "-")
            self.first(slot, found, "" if fold(label) in said else f"as {label}")
        for finding in self.refused:
            if finding.slot == slot:
                self.reading.warnings.append(f"{finding.words!r}: a model is told what to write, not what to avoid")

    def missing_label(self, slot: str, finding: Finding, known: list[str]) -> None:
        name = finding.data.get("name", finding.words)
        folded = {label.casefold(): label for label in known}
        near = [folded[key] for key in difflib.get_close_matches(name.casefold(), folded, n=3, cutoff=0.4)]
        said = f"nearest: {', '.join(near)}" if near else f"known: {', '.join(known[:20]) or 'none'}"
        self.reading.warnings.append(f"this model has no {slot} {name!r}; {said}")
        if name not in self.reading.unmatched:
            self.reading.unmatched.append(finding.words)

    def key(self) -> None:
        modes = self.of("mode")
        moods = [finding for finding in self.open_moods if "mode" in finding.data]
        keys = self.of("key")
        if keys:
            found: list[tuple[Finding, object]] = []
            for finding in keys:
                mode = finding.data["mode"] or next((f.data["mode"] for f in (*modes, *moods)), "major")
                found.append((finding, KEYS[finding.data["tonic"] + 12 * (mode == "minor")]))
            church = keys[0].data["church"]
            self.first("key", found, f"{church} is taken as {keys[0].data['mode']}" if church else "")
            for finding in modes:
                if not str(found[0][1]).endswith(finding.data["mode"]):
                    self.reading.contradictions.append(f"key: {keys[0].words!r} is not {finding.words!r}")
        elif modes or moods:
            finding = (modes or moods)[0]
            mode = finding.data["mode"]
            key = f"{_TONIC[mode]}-{mode}"
            said = f"no tonic named: {_TONIC[mode]}" if modes else f"the model has no moods: taken as {mode}"
            self.first("key", [(finding, key)], said)
        for finding in moods:
            if any(match.words == finding.words for match in self.reading.matches):
                continue
            if self.reading.conditions["key"].endswith(finding.data["mode"]):
                self.match(finding, "key", self.reading.conditions["key"])
            else:
                self.reading.contradictions.append(f"key: {finding.words!r} is not {self.reading.conditions['key']}")

    def tempo(self) -> None:
        numbers = [f for f in self.of("tempo") if f.exact]
        words = [f for f in self.of("tempo") if not f.exact and "bare" not in f.data]
        bare = [f for f in self.of("tempo") if "bare" in f.data]
        if numbers or len(bare) > 1:
            self.reading.unmatched += [f.words for f in bare]
        else:
            numbers = [replace(f, exact=True, note="taken as beats per minute") for f in bare]
        tempos = self.processor.vocabulary.tempos
        low, high = float(tempos[0].round()), float(tempos[-1].round())
        found: list[tuple[Finding, object]] = []
        for finding in (*numbers, *words):
            asked = finding.data["bpm"]
            bpm = min(max(float(asked), low), high)
            if bpm != asked:
                self.reading.warnings.append(f"{finding.words!r}: tempo is limited to {low:.0f} to {high:.0f}")
            found.append((finding, bpm))
        if numbers:
            for word in words:
                least, most = word.data["range"]
                if least <= numbers[0].data["bpm"] <= most:
                    self.match(word, "tempo", found[0][1])
                else:
                    self.reading.contradictions.append(
                        f"tempo: {word.words!r} and {numbers[0].words!r} do not agree; the number counts"
                    )
            self.first("tempo", found[: len(numbers)])
        elif words:
            self.tempo_words(words, found)
        moods = [f for f in self.open_moods if "tempo" in f.data]
        if moods and not found:
            self.first("tempo", [(moods[0], float(moods[0].data["tempo"]))], "the model has no moods: taken as a tempo")
            moods = moods[1:]
        moods += [f for f in self.open_moods if "tempo" not in f.data and "mode" not in f.data]
        self.reading.unmatched += [finding.words for finding in moods]
        if moods and not self.processor.labels("mood"):
            self.reading.warnings.append(f"this model has no moods: {', '.join(f.words for f in moods)}")
        self.reading.unmatched += [f.words for f in self.refused if f.slot in ("tempo", "density", "mood", "group")]

    def tempo_words(self, words: list[Finding], found: list[tuple[Finding, object]]) -> None:
        """Words that can all be meant, such as "not too fast, not too slow", share a tempo; else the first counts."""
        low = max(word.data["range"][0] for word in words)
        high = min(word.data["range"][1] for word in words)
        if low >= high:
            return self.first("tempo", found)
        shared = next((bpm for _, bpm in found if low <= float(str(bpm)) <= high), (low + high) / 2)
        self.first("tempo", [(word, shared) for word in words])

    def density(self) -> None:
        found: list[tuple[Finding, object]] = [(f, f.data["notes_per_bar"]) for f in self.of("density")]
        if found:
            self.first("density", sorted(found, key=lambda item: not item[0].exact))

    def bars(self) -> None:
        found: list[tuple[Finding, object]] = []
        limit = self.processor.max_bars
        tempo = self.reading.conditions.get("tempo", _TEMPO_OF_SECONDS)
        for finding in [f for f in self.asked if f.slot in ("bars", "seconds")]:
            in_seconds = finding.slot == "seconds"
            asked = finding.data["seconds"] * tempo / 240 if in_seconds else finding.data["bars"]
            bars = min(max(round(asked), 1), limit)
            if not 1 <= asked <= limit and not in_seconds:
                self.reading.warnings.append(f"{finding.words!r}: the length is limited to 1 to {limit} bars")
            found.append((finding, bars))
        if found:
            self.first("bars", found, f"at {tempo:.0f} bpm" if found[0][0].slot == "seconds" else "")

    def instruments(self) -> None:
        genre = self.reading.conditions.get("genre")
        excluded = {p for f in self.refused if f.slot == "instrument" for p in programs_without(f.data)}
        self.reading.without = names_of(excluded)
        for finding in self.refused:
            if finding.slot == "instrument":
                self.match(finding, "without", ", ".join(names_of(programs_without(finding.data))))
        named, names = self.of("instrument"), []
        for finding, name in [(f, self.instrument(f.data, excluded, genre)) for f in named]:
            if name is None:
                self.reading.contradictions.append(
                    f"instruments: {finding.words!r} is asked for and refused; it is left out"
                )
            else:
                self.match(finding, "instruments", name)
                names.append(name)
        for group in self.of("group"):
            names += self.group(group, named, names, excluded, genre)
        if names:
            self.reading.instruments = list(dict.fromkeys(names))
            self.reading.programs = choose_programs(names, without=self.reading.without, genre=genre)
            self.reading.conditions["instruments"] = list(self.reading.programs)

    @staticmethod
    def instrument(row: dict, excluded: set[int], genre: str | None) -> str | None:
        """Name of the family or program that a row of the word table stands for; None if nothing of it is left."""
        family = row["family"]
        left = [p for p in row.get("programs", FAMILY_PROGRAMS[family]) if p not in excluded]
        if not left:
            return None
        return program_name(usual_program(left, genre)) if "programs" in row else family

    def group(
        self, group: Finding, named: list[Finding], names: list[str], excluded: set[int], genre: str | None
    ) -> list[str]:
        """The players of a group that are to join the named instruments."""
        size, count = group.data.get("size"), len(set(names))
        families = {programs_of(name)[0] for name in names}
        players = []
        for player in group.data.get("players", ()):
            entry = self.lexicon.content.get(player)
            name = entry and self.instrument(entry.data, excluded, genre)
            if name and programs_of(name)[0] not in families and not (named and size and count + len(players) >= size):
                players.append(name)
        if size and (count + len(players) != size if named else not players):
            counted = f"{count} instrument{'s' * (count != 1)}" if named else "no instruments"
            self.reading.warnings.append(f"{group.words!r}: {counted} named")
        if size or named or players:
            self.match(group, "instruments", ", ".join(players) or ("as named" if named else ""))
        return players


def programs_without(row: dict) -> set[int]:
    """The programs that "no ..." takes away."""
    if "without" not in row:
        return set(row.get("programs", FAMILY_PROGRAMS[row["family"]]))
    programs: set[int] = set()
    for part in row["without"]:
        low, _, high = part.rpartition("-") if part.count("-") and not part.startswith("-") else ("", "", part)
        programs |= set(range(int(low or high), int(high) + 1))
    return programs


def names_of(programs: Iterable[int]) -> list[str]:
    """Families where all their programs are given, General MIDI names of the others."""
    left, names = set(programs), []
    for family, members in FAMILY_PROGRAMS.items():
        if set(members) <= left:
            names.append(family)
            left -= set(members)
        else:
            names += [program_name(program) for program in members if program in left]
    return names
