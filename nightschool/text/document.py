"""What the model reads and says: messages, and documents that know where their information came from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "tool"]
Kind = Literal["real", "world", "reflection", "dream", "replay", "sample"]
Info = Literal["doc", "verifier", "seed", "peer", "none"]


@dataclass(frozen=True)
class Message:
    """One turn. An assistant's turn may end in tool calls; a `tool` turn holds one observation."""

    role: Role
    content: str
    tool_calls: tuple[dict[str, Any], ...] = ()  # {"name": str, "arguments": dict}


@dataclass(frozen=True)
class Document:
    """A text or a conversation, with its lineage.

    `info` says where its information came from that was not in the model's own weights: a document read (doc), a
    program that checked it (verifier), an outside random seed (seed), a model raised on other data (peer). `none`
    is food for control arms only.
    """

    text: str = ""
    messages: tuple[Message, ...] = ()  # either text or messages
    pieces: tuple[tuple[str, bool], ...] = ()  # a text in parts, each learned or only read; () = all is learned
    kind: Kind = "world"
    info: Info = "seed"
    gen: int = 0  # how many models stand between this document and the world
    weight: float = 1.0  # of its tokens in the loss
    parents: tuple[str, ...] = ()  # ids of the documents it was made from
    tools: tuple[str, ...] = field(default=())  # names announced to the model in a conversation

    @property
    def id(self) -> str:
        body = self.text or json.dumps([[m.role, m.content, m.tool_calls] for m in self.messages])
        return hashlib.blake2b(body.encode(), digest_size=8).hexdigest()


def in_pieces(pieces: Sequence[tuple[str, bool]]) -> Document:
    """A text of which only some parts are learned: those that what stands before them lets one know."""
    return Document(text="".join(part for part, _ in pieces), pieces=tuple(pieces))


def record_of(document: Document) -> dict[str, Any]:
    """A document as a line of a .jsonl file, which text/sources.py reads; what is empty is left out."""
    return {name: value for name, value in asdict(document).items() if value and name != "pieces"}
