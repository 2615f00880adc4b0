"""What the nights before this one left behind: which families are known by now, what was learned of them, and what the
first evening could do.

Each night hands it on in its own run folder, so that a life can be moved or its older nights thrown away. A night that
its gate undid leaves what it began with. But: of the town's families only; what `read` taught is not told here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from nightschool.night.gate import Outcomes
from nightschool.night.read import Reflection, read_back
from nightschool.runs import read_json, write_json, write_jsonl
from nightschool.world.attributes import Fact
from nightschool.world.newcomers import News, newcomers

FAMILIES, FIRST, TAUGHT = "families.json", "first-evening.json", "taught.jsonl"


@dataclass(frozen=True)
class Past:
    families: tuple[tuple[int, int], ...]  # (seed, people) of each, in the order in which they came
    taught: tuple[Reflection, ...]
    first: Outcomes = field(default_factory=dict)  # of the day's skills, on the first evening

    @staticmethod
    def of(folder: Path) -> Past:
        """Nothing, where the run is no night."""
        if not (folder / FAMILIES).exists():
            return Past((), ())
        families = tuple((seed, num_people) for seed, num_people in read_json(folder / FAMILIES))
        return Past(families, tuple(read_back(folder / TAUGHT)), read_json(folder / FIRST))

    def save(self, folder: Path) -> None:
        write_jsonl(folder / TAUGHT, map(asdict, self.taught))
        write_json(folder / FIRST, self.first)
        write_json(folder / FAMILIES, self.families)

    def and_then(self, seed: int, num_people: int, reflections: Sequence[Reflection]) -> Past:
        kept = (r for r in reflections if r.kept)
        return replace(self, families=(*self.families, (seed, num_people)), taught=(*self.taught, *kept))

    @property
    def news(self) -> list[News]:
        found: list[News] = []
        for seed, num_people in self.families:
            found.append(newcomers(seed, num_people, [fact.person for news in found for fact in news.facts]))
        return found

    @property
    def facts(self) -> list[Fact]:
        return [fact for news in self.news for fact in news.facts]

    @property
    def names(self) -> list[str]:
        return list(dict.fromkeys(fact.person for fact in self.facts))
