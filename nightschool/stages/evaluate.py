"""`nightschool evaluate`: sit the exams. Dev by default; test is opened by the last evaluation alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from nightschool.config import at_least
from nightschool.device import Dtype, set_up
from nightschool.model import exchange
from nightschool.model.engine import Engine
from nightschool.runs import write_json, write_jsonl
from nightschool.tasks import exam as exams
from nightschool.tasks.world import PROBES, SKILLS


@dataclass(frozen=True)
class Config:
    run: Annotated[Path, tyro.conf.Positional] = Path("life/sft")  # the run folder whose checkpoint is examined
    split: Literal["dev", "test"] = "dev"  # test: once, at the very end
    n: int = 500  # problems per skill
    n_probes: int = 100  # problems per harder probe; 0 = none
    seed: int = 0  # of the problems
    threads: int = 0  # 0 = one a core
    dtype: Dtype = "auto"  # to compute in; auto = a second's probe

    def __post_init__(self) -> None:
        at_least(self, 1, "n")
        at_least(self, 0, "n_probes", "threads")


def main(config: Config) -> dict[str, Any]:
    checkpoint = exchange.checkpoint_of(config.run)
    device = set_up(config.threads, config.dtype)
    model, tokenizer = exchange.load(checkpoint, device.dtype)
    engine = Engine(model, tokenizer, slots=128)
    skills, samples = exams.exam(engine, SKILLS, config.split, config.n, config.seed)
    probes, _ = exams.exam(engine, PROBES, config.split, config.n_probes, config.seed) if config.n_probes else ({}, [])
    scores = {
        "split": config.split,
        "skills": skills,
        "probes": probes,
        "bits_per_byte": exams.bits_per_byte(model, tokenizer, config.split),
    }
    suffix = "-test" if config.split == "test" else ""
    write_json(config.run / f"scores{suffix}.json", scores)
    write_jsonl(config.run / "samples.jsonl", samples)
    write_jsonl(config.run / "off_template.jsonl", exams.off_template(engine))
    return scores
