"""The exams of the town: seven skills and some harder probes, each a task over freshly drawn problems."""

from __future__ import annotations

import random
from dataclasses import replace

from nightschool.config import UserError
from nightschool.tasks.task import Task
from nightschool.world import school
from nightschool.world.arithmetic import arithmetic
from nightschool.world.letters import letter_count
from nightschool.world.passages import passage
from nightschool.world.problem import Problem, Split
from nightschool.world.stories import story
from nightschool.world.tools import TOOLS, calculator, lookup
from nightschool.world.word_problems import LONGEST, word_problem


def ask_story(rng: random.Random, split: Split) -> Problem:
    return rng.choice(story(rng, split))


def ask_passage(rng: random.Random, split: Split) -> Problem:
    return passage(rng, split, (rng.choice(("one_hop", "two_hop")), "one_hop"))[0]


def ask_absent(rng: random.Random, split: Split) -> Problem:
    return passage(rng, split, ("absent",))[0]


def ask_tool(rng: random.Random, split: Split) -> Problem:
    return rng.choice((calculator, lookup))(rng, split)


def ask_in_conversation(rng: random.Random, split: Split) -> Problem:
    """As the terminal has it: tools announced, as people type, after other subjects."""
    family = rng.choice((arithmetic, letter_count, word_problem, calculator))
    problem, before = family(rng, split), school.other_subjects(rng, split, tuple(school.SUBJECTS), 0.5)
    return replace(school.as_typed(problem, rng), before=before.messages, tools=TOOLS)


SKILLS: dict[str, Task] = {
    "story": Task(ask_story),
    "passage": Task(ask_passage),
    "absent": Task(ask_absent),
    "arithmetic": Task(arithmetic),
    "word_problem": Task(lambda rng, split: word_problem(rng, split, (1, LONGEST + 1))),
    "letter_count": Task(letter_count),
    "tool": Task(ask_tool),
}
PROBES: dict[str, Task] = {
    "conversation": Task(ask_in_conversation),
    "arithmetic_5_digits": Task(lambda rng, split: arithmetic(rng, split, (5, 5))),
    "word_problem_5_steps": Task(lambda rng, split: word_problem(rng, split, (LONGEST + 2, LONGEST + 2))),
    "story_12_events": Task(lambda rng, split: rng.choice(story(rng, split, num_events=(12, 12)))),
}


def draw(task: Task, split: Split, n: int, seed: int) -> list[Problem]:
    """n problems of a split, no two with the same key and question; the same for the same seed. UserError where a
    task seems to have fewer."""
    rng = random.Random(f"{split} {seed}")
    problems: dict[str, Problem] = {}
    for _ in range(100 * n):
        problem = task.sample(rng, split)
        problems.setdefault(f"{problem.key} {problem.question}", problem)
        if len(problems) == n:
            return list(problems.values())
    raise UserError(f"the task has only {len(problems)} different {split} problems, and {n} are asked for")
