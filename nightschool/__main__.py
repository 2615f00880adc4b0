"""`nightschool VERB [FILE.toml] [--field value ...]`: find the verb's stage, read its configuration, run it.

The last line on stdout is one JSON object with the verb's headline numbers; all else goes to stderr. Exit
codes: 0; 1 for a result below the bar that the caller set; 2 for a mistake of the caller's, with one line that names
its mend; 130 and 143 after Ctrl-C and SIGTERM.
"""

from __future__ import annotations

import errno
import importlib
import json
import os
import shlex
import signal
import sys
from keyword import iskeyword
from types import FrameType

from nightschool import ranks
from nightschool.config import BelowBar, Stopped, UserError, closest, parse

VERBS = {  # verb -> what it does; nightschool/stages/VERB.py (import_.py) holds its Config and main
    "quickstart": "one whole day and one night on the embedded world, small enough for a CPU",
    "speedrun": "the same life at real scale: real text, --depth, one GPU or torchrun on many",
    "doctor": "before a paid minute: kernels against a reference, what fits, hours and dollars",
    "tokenizer": "train the tokenizer on the world's text, or on a corpus",
    "corpus": "your files or hub data sets -> tokenized shards, without duplicates and exam questions",
    "pretrain": "read: train a model from scratch on raw text",
    "sft": "go to school: train on conversations with worked answers",
    "rl": "practise: try harder problems, learn from what a verifier says",
    "review": "learn to say which line of its own work went wrong, with no solution to look at",
    "night": "read about the day's news by asking itself questions; keep it only if nothing is lost",
    "read": "read your documents by thinking about them; keep it only if nothing is lost",
    "ask": "answer a question from documents, with the sentences that say so, or from memory",
    "evaluate": "sit the exams: accuracy per skill on held-out problems, with intervals",
    "generate": "samples of a model that stay as various as real text, ready to be learned from",
    "audit": "does a set of texts say many things or few? any JSONL, or any OpenAI-compatible endpoint",
    "report": "write one report.html from what the runs of a life wrote",
    "chat": "talk to a model in the terminal",
    "serve": "OpenAI-compatible server with a web page",
    "import": "take in a Qwen3, Qwen2 or Llama model, from a folder or the hub",
    "export": "a checkpoint for other programs: a Hugging Face directory, or GGUF for llama.cpp and Ollama",
    "lab": "a controlled experiment: lab credit, judge, collapse, reading or dream",
}
LABS = ("credit", "judge", "collapse", "reading", "dream")  # nightschool/lab/NAME.py, with a Config and a main each

SHARED = ("pretrain", "sft", "rl", "night", "read", "speedrun")  # verbs that several ranks can share, by torchrun

MENDS = {  # errors of the machine that the caller can mend; any other is ours and keeps its traceback
    errno.ENOSPC: "free some space, then the same command goes on",
    errno.EDQUOT: "free some space, then the same command goes on",
    errno.EROFS: "choose a folder that can be written with --out",
    errno.EACCES: "choose a folder that can be written with --out",
    errno.EPERM: "choose a folder that can be written with --out",
    errno.ENOTDIR: "choose a folder, not a file",
    errno.EADDRINUSE: "choose another --port",
}


def usage() -> str:
    lines = [f"  {verb:12}{sentence}" for verb, sentence in VERBS.items()]
    return "\n".join(
        ("usage: nightschool VERB [FILE.toml] [--field value ...]", "", *lines, "", "nightschool VERB --help")
    )


def run(argv: list[str]) -> None:
    if not argv:
        raise UserError(f"which verb? one of {' '.join(VERBS)}; see nightschool --help")
    verb, *rest = argv
    if verb in ("-h", "--help", "help"):
        print(usage())
        return
    if verb not in VERBS:
        raise UserError(f"unknown verb {verb!r}{closest(verb, list(VERBS)) or '; see nightschool --help'}")
    if ranks.size() > 1 and verb not in SHARED:
        raise UserError(f"{verb} works in one process; start it without torchrun")
    module = f"stages.{verb}{'_' * iskeyword(verb)}"
    if verb == "lab":
        if not rest or rest[0] not in LABS:
            raise UserError(f"which lab? one of {' '.join(LABS)}")
        verb, module, rest = f"lab {rest[0]}", f"lab.{rest[0]}", rest[1:]
    stage = importlib.import_module(f"nightschool.{module}")
    config = parse(stage.Config, rest, f"nightschool {verb}")
    with ranks.joined():
        headline = stage.main(config)
    if headline is not None and ranks.rank() == 0:
        print(json.dumps(headline), flush=True)


def terminate(signum: int, frame: FrameType | None) -> None:
    raise Stopped(signum)


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    # Threads that wait for one another spin; where another program wants a core too, GNU's default of some
    # milliseconds a time made training fifty times slower, this one five times, and an idle machine is as fast.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # read when torch is imported
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")  # a GPU's memory does not go to pieces
    signal.signal(signal.SIGTERM, terminate)
    try:
        run(argv)
    except UserError as error:
        who = f"nightschool, rank {ranks.rank()}" if ranks.rank() else "nightschool"
        print(f"{who}: {error}", file=sys.stderr)
        return 2
    except BelowBar as result:
        if ranks.rank() == 0:
            print(f"nightschool: {result}", file=sys.stderr)
            print(json.dumps(result.headline), flush=True)
        return 1
    except OSError as error:
        if error.errno not in MENDS:
            raise
        where = f": {error.filename}" if error.filename else ""
        print(f"nightschool: {error.strerror}{where}; {MENDS[error.errno]}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        signum = stop.signum if isinstance(stop, Stopped) else signal.SIGINT
        if ranks.rank() == 0:
            print(f"\nstopped; to go on: {shlex.join(['nightschool', *argv])}", file=sys.stderr)
        return 128 + signum
    return 0


if __name__ == "__main__":
    sys.exit(main())
