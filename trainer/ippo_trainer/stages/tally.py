"""What an import of conversations counts, the pieces in which it writes them, and how it goes on after a stop."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from ippo_trainer.contract.digests import canonical_json
from ippo_trainer.contract.lines import one_line
from ippo_trainer.data.counts import count
from ippo_trainer.data.own import writer_of
from ippo_trainer.data.schema import Conversation
from ippo_trainer.data.turns import characters, write_turns
from ippo_trainer.stages.runtime import StageContext

PIECE_TURNS = 100_000
PIECE_CHARACTERS = 32 << 20
"""Of one file, about: what is in memory at once."""
_MANY_WRITERS, _MANY_GROUPS = 16, 64
_LONGEST_WRITER = 80


@dataclass
class Tally:
    """Sums over conversations."""

    counts: Counter[str] = field(default_factory=Counter)
    """Of `data.counts.count`."""
    writers: Counter[str] = field(default_factory=Counter)
    """Turns by who suggested."""
    groups: dict[str, list[int]] = field(default_factory=dict)
    """By a log's `group`: conversations, finished ones, outcomes."""

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Self:
        """From `metadata`."""
        return cls(Counter(content["counts"]), Counter(content["writers"]), content.get("groups", {}))

    def metadata(self) -> dict[str, Any]:
        """For an artifact."""
        groups = {"groups": self.groups} if self.groups else {}
        return {"counts": dict(self.counts), "writers": dict(self.writers), **groups}

    def add(self, piece: list[Conversation]) -> None:
        """Counts more conversations."""
        self.counts.update(count(piece))
        self._add_groups(piece)
        turns = (turn for conversation in piece for turn in conversation.turns)
        for writer, number in Counter(map(writer_of, turns)).items():
            name = one_line(writer, _LONGEST_WRITER)
            counts_alone = name in self.writers or len(self.writers) < _MANY_WRITERS
            self.writers[name if counts_alone else "others"] += number

    def _add_groups(self, piece: list[Conversation]) -> None:
        for each in piece:
            if each.group:
                counts_alone = each.group in self.groups or len(self.groups) < _MANY_GROUPS
                row = self.groups.setdefault(each.group if counts_alone else "others", [0, 0, 0])
                for index, counts in enumerate((True, not each.censored, each.outcome)):
                    row[index] += counts


@dataclass
class Import:
    """What an import has done: the files in `directory`, and their tally."""

    directory: Path
    state: str
    """Of a checkpoint, the file that says the rest."""
    files: int = 0
    tally: Tally = field(default_factory=Tally)

    def write(self, piece: list[Conversation]) -> None:
        """Another file."""
        write_turns(self.directory / f"turns-00000-{self.files:05d}.parquet", piece)
        self.files += 1
        self.tally.add(piece)

    def save(self, ctx: StageContext, content: Mapping[str, Any]) -> None:
        """A checkpoint, with what else is to be known when the import goes on."""
        file = self.directory / self.state
        file.write_bytes(canonical_json({**content, **self.tally.metadata()}))
        ctx.save_checkpoint(self.directory, self.files)
        file.unlink()

    def resume(self, ctx: StageContext) -> dict[str, Any] | None:
        """Goes on where the checkpoint is, and returns what else it says; None where there is none."""
        step = ctx.load_checkpoint(self.directory)
        self.directory.mkdir(exist_ok=True)
        if step is None:
            return None
        file = self.directory / self.state
        content: dict[str, Any] = json.loads(file.read_bytes())
        file.unlink()
        self.files, self.tally = step, Tally.of(content)
        return content


def pieces(conversations: Iterable[Conversation]) -> Iterator[list[Conversation]]:
    """The conversations in lists of bounded size."""
    piece: list[Conversation] = []
    turns = size = 0
    for conversation in conversations:
        piece.append(conversation)
        turns += len(conversation.turns)
        size += characters(conversation)
        if turns >= PIECE_TURNS or size >= PIECE_CHARACTERS:
            yield piece
            piece, turns, size = [], 0, 0
    if piece:
        yield piece
