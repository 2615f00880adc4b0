"""The two tools: a calculator that walks a syntax tree, and a look-up in a table of facts. Nothing is executed."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

OPERATORS: dict[type[ast.AST], Callable[..., float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.USub: operator.neg,
}
LONGEST = 100  # characters of an expression
NOT_FOUND = "not found"


def described(name: str, description: str, /, **arguments: str) -> dict[str, Any]:
    """A function of texts as OpenAI's API describes it: what it does, and what each argument is."""
    properties = {argument: {"type": "string", "description": what} for argument, what in arguments.items()}
    parameters = {"type": "object", "properties": properties, "required": list(arguments)}
    return {"name": name, "description": description, "parameters": parameters}


FUNCTIONS = (
    described("calculator", "Work out a sum exactly.", expression="numbers and + - * / // %, as in 2*(3+4)"),
    described("lookup", "Look up a fact about a person of the town.", name="the person's", fact="as in job or street"),
)
Facts = Mapping[str, Mapping[str, str]]  # name -> fact -> value


def calculate(expression: str) -> str:
    """calculate("2*(3+4)") -> "14". Numbers and + - * / // % alone; a mistake is answered in words, for the model."""

    def value(node: ast.AST) -> float:
        if isinstance(node, ast.Expression):
            return value(node.body)
        if isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool):
            return node.value
        if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
            return OPERATORS[type(node.op)](value(node.left), value(node.right))
        if isinstance(node, ast.UnaryOp) and type(node.op) in OPERATORS:
            return OPERATORS[type(node.op)](value(node.operand))
        raise ValueError(ast.dump(node))

    if len(expression) > LONGEST:
        return f"error: longer than {LONGEST} characters"
    try:
        return f"{value(ast.parse(expression.strip(), mode='eval')):.12g}"
    except (ValueError, SyntaxError):
        return "error: only numbers and + - * / // %"
    except (ZeroDivisionError, OverflowError):
        return "error: no such number"


def call_tool(call: dict[str, Any], facts: Facts) -> str:
    """The observation for one call; what the tools do not know is said in words."""
    arguments = call.get("arguments")
    match call.get("name"), arguments:
        case "calculator", {"expression": str(expression)}:
            return calculate(expression)
        case "lookup", {"name": str(name), "fact": str(fact)}:
            return facts.get(name, {}).get(fact, NOT_FOUND)
    return f"error: no such call: {call.get('name')}"
