"""What one visitor has made: versions with their parents, and which one is shown."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

MAX_VERSIONS = 20


@dataclass
class Version:
    """The outcome of one action."""

    number: int
    action: str
    prompt: str
    request: dict[str, Any]
    seed: int
    model: str
    midi: list[bytes] = field(repr=False)
    """One Standard MIDI File per output."""
    bars: list[list] = field(repr=False)
    """Notes by bar, per output."""
    measured: list[dict[str, Any]]
    seconds: float
    complete: bool
    transposed: list[int]
    """Semitones by which each output was moved to the asked key."""
    primer_bars: int = 0
    parent: int | None = None
    pinned: bool = False

    @property
    def label(self) -> str:
        """One line for the list of versions."""
        state = ("" if self.complete else ", stopped") + (", pinned" if self.pinned else "")
        return f"{self.number}. {self.action}, {max(map(len, self.bars))} bars{state}"


class Session:
    """The versions of one visitor; `current` is the number of the one that is shown, `other` of the one before it.

    No dataclass: Gradio would write the fields of one into the page.
    """

    def __init__(self):
        self.versions: dict[int, Version] = {}
        self._current: int | None = None
        self.other: int | None = None
        self.made = 0

    @property
    def current(self) -> int | None:
        return self._current

    @current.setter
    def current(self, number: int | None) -> None:
        if number != self._current:
            self._current, self.other = number, self._current

    @property
    def shown(self) -> Version | None:
        """The version on the page."""
        return self.versions.get(self.current) if self.current is not None else None

    def add(self, **facts: Any) -> Version:
        """A new version with the shown one as its parent; beyond twenty the oldest that is not pinned goes."""
        self.made += 1
        version = Version(number=self.made, parent=self.current, **facts)
        self.versions[version.number] = version
        self.current = version.number
        loose = [number for number, item in self.versions.items() if not item.pinned]
        if len(self.versions) > MAX_VERSIONS:
            del self.versions[min(loose)]
        return version

    def undo(self) -> None:
        """Shows the parent of the shown version, where there is one."""
        if self.shown and self.shown.parent in self.versions:
            self.current = self.shown.parent

    def redo(self) -> None:
        """Shows the newest child of the shown version, where there is one."""
        children = [number for number, version in self.versions.items() if version.parent == self.current]
        if children:
            self.current = max(children)

    def swap(self) -> bool:
        """Shows the version that was shown before this one, to hear two in turn; False where it is gone."""
        if self.other not in self.versions:
            return False
        self.current = self.other
        return True

    def duplicate(self) -> None:
        """A copy of the shown version, which becomes its parent."""
        if version := self.shown:
            facts = {item.name: getattr(version, item.name) for item in fields(version)}
            for name in ("number", "parent", "pinned"):
                del facts[name]
            lists = {name: list(facts[name]) for name in ("midi", "bars", "measured", "transposed")}
            self.add(**facts | lists | {"action": f"copy of {version.number}"})

    def pin(self) -> None:
        """Pins the shown version, or unpins it; nineteen at most, so that new ones have a place."""
        version = self.shown
        pinned = sum(item.pinned for item in self.versions.values())
        if version and (version.pinned or pinned < MAX_VERSIONS - 1):
            version.pinned = not version.pinned
