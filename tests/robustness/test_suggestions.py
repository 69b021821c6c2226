"""What an error suggests is right: names that are meant, and options that the command has."""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib
import io
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("tyro", reason="needs the extra experiments")
pytest.importorskip("matplotlib", reason="needs the extra experiments")

from cace_env.config import did_you_mean

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = sorted(path for path in (ROOT / "experiments").glob("*.py") if "__main__" in path.read_text("utf-8"))
SUBCOMMANDS = {
    "submission": ("make", "check", "board", "ship"),
    "live": ("check", "demo", "serve", "shadow", "tiny", "validate"),
    "planner": ("fit", "calibrate", "budget"),
    "reference": ("find", "curve", "gap", "prefetch", "horizon", "tiny"),
}
LLAMA_CPP = ("threads", "ctx-size", "parallel", "batch-size", "ubatch-size", "cache-ram", "no-mmap")
OTHERS = ("--porcelain", "--logdir", *(f"--{option}" for option in LLAMA_CPP))  # of git, TensorBoard, a model server
OPTION = re.compile(r"python -m (?:experiments\.(\w+)|(\S+))|(?<![\w-])(--[a-z][a-z-]*[a-z])")


@pytest.mark.parametrize(
    ("name", "known", "meant"),
    [
        ("cuont", ["count", "rate"], ["count"]),
        ("lur", ["lru", "lfu"], ["lru"]),
        ("evicton", ["eviction", "swap"], ["eviction"]),
        ("Context Tokens", ["ContextTokens"], ["ContextTokens"]),
        ("TIMESTAMP", ["timestamp"], ["timestamp"]),
        ("ttf", ["ttft", "e2e"], ["ttft"]),
        ("h300", ["h100", "h200", "l40s"], ["h100", "h200"]),
        ("pined_on", ["pinned_on", "resident_on"], ["pinned_on"]),
        ("workstatoin", ["workstation", "default"], ["workstation"]),
    ],
)
def test_a_slip_of_the_keyboard_is_understood(name: str, known: list[str], meant: list[str]) -> None:
    assert did_you_mean(name, known) == f", did you mean {' or '.join(map(repr, meant))}?"


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("startTime", ["endTime", "request_id", "model"]),
        ("model", ["node"]),
        ("input_tokens", ["output_tokens"]),
        ("gdsf", ["lfu", "cace"]),
        ("", ["lru"]),
        ("e", ["eviction", "engine"]),
        ("a", ["b"]),
        ("x" * 5000, ["y" * 5000]),
        ("lru", []),
    ],
)  # fmt: skip
def test_nothing_is_suggested_where_nothing_is_close(name: str, known: list[str]) -> None:
    assert did_you_mean(name, known) == ""


def test_only_one_place_guesses_names() -> None:
    packages = (path for package in ("cace_env", "agents", "experiments") for path in (ROOT / package).rglob("*.py"))
    assert [path for path in packages if "difflib" in path.read_text("utf-8")] == []


@functools.cache
def help_of(command: str) -> str:
    """What a command's --help says."""
    main = importlib.import_module(f"experiments.{command}").main
    said = io.StringIO()
    for arguments in [[sub, "--help"] for sub in SUBCOMMANDS.get(command, ())] or [["--help"]]:
        with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
            main(arguments)
    return said.getvalue()


def options_of(command: str) -> frozenset[str]:
    """The options that a command's --help names."""
    return frozenset(re.findall(r"--[a-z][a-z-]*[a-z]", help_of(command)))


@pytest.mark.parametrize("command", [path.stem for path in COMMANDS])
def test_help_is_in_no_words_of_python(command: str) -> None:
    assert re.findall(r"\b(?:STR|INT|FLOAT|NoneType)\b", help_of(command)) == []


def texts_of(path: Path) -> Iterator[str]:
    """What a module may say: its strings, f-strings with gaps, without docstrings."""
    tree = ast.parse(path.read_text("utf-8"))
    documented = (ast.Module, ast.FunctionDef, ast.ClassDef)
    silent = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            silent |= {id(part) for part in node.values}
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in silent:
            yield node.value


@functools.cache
def machinery_of() -> dict[str, list[Path]]:
    """By command: its module, and the modules of the wings that it alone reaches."""
    reached: dict[Path, set[str]] = {}

    def reach(path: Path, command: str) -> None:
        if command in reached.setdefault(path, set()):
            return
        reached[path].add(command)
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("experiments"):
                for name in (str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)):
                    found = ROOT / f"{name.replace('.', '/')}.py"
                    if found.is_file():
                        reach(found, command)

    for path in COMMANDS:
        reach(path, path.stem)
    return {
        path.stem: [found for found, by in reached.items() if by == {path.stem}]
        for path in COMMANDS
    }  # fmt: skip


def foreign(text: str, command: str) -> list[str]:
    """Options in a text that no command has which it speaks of: the last one named as python -m NAME, or its own."""
    wrong, speaks_of = [], command
    for own, other, option in OPTION.findall(text):
        if own or other:
            speaks_of = own
        elif speaks_of and option not in (*options_of(speaks_of), *OTHERS):
            wrong.append(f"{option} is no option of {speaks_of}: {text!r}")
    return wrong


@pytest.mark.parametrize("command", [path.stem for path in COMMANDS])
def test_a_command_names_only_options_that_it_has(command: str) -> None:
    texts = [text for path in machinery_of()[command] for text in texts_of(path)]
    assert [wrong for text in texts for wrong in foreign(text, command)] == []
