"""Claims about the tiny models, the sizes of models, and the description of a backend: no server is needed."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest

from cace_env.config import ConfigError
from cace_env.live.backends import BACKENDS, make_backend, read_memory
from cace_env.live.backends.memory import gguf_bytes
from cace_env.live.tiny_models import TINY_MODELS, write_tiny_models


def test_tiny_models_have_2_to_13_mb_and_are_always_the_same(tmp_path: Path):
    first, second = write_tiny_models(tmp_path / "a"), write_tiny_models(tmp_path / "b")
    assert list(first) == list(TINY_MODELS)
    sizes = [path.stat().st_size for path in first.values()]
    assert sizes == sorted(sizes)
    assert all(1.9e6 < size < 13e6 for size in sizes)
    assert all(path.read_bytes() == second[name].read_bytes() for name, path in first.items())
    assert {path.name for path in (tmp_path / "a").iterdir()} == {f"{name}.gguf" for name in TINY_MODELS}


def test_a_model_that_is_there_is_kept(tmp_path: Path):
    (tmp_path / "tiny-2m.gguf").write_bytes(b"mine")
    write_tiny_models(tmp_path)
    assert (tmp_path / "tiny-2m.gguf").read_bytes() == b"mine"


@pytest.mark.parametrize("package", ["gguf", "aiohttp"])
def test_a_missing_package_names_the_extra(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name == package:
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=rf"needs (the package )?{package}; run: pip install 'cace-env\[live\]'"):
        if package == "gguf":
            write_tiny_models(tmp_path)
        else:
            make_backend("ollama:http://127.0.0.1:11434")


def test_all_parts_of_a_split_model_count(tmp_path: Path):
    for part in (1, 2):
        (tmp_path / f"big-0000{part}-of-00002.gguf").write_bytes(b"x" * 10 * part)
    (tmp_path / "small.gguf").write_bytes(b"x")
    assert gguf_bytes(tmp_path / "big-00001-of-00002.gguf") == 30
    assert gguf_bytes(tmp_path / "small.gguf") == 1
    assert gguf_bytes(tmp_path / "nowhere.gguf") is None


def test_the_users_file_of_memory_has_units(tmp_path: Path):
    file = tmp_path / "memory.yaml"
    file.write_text("qwen-7b: 4.7 GB\norg/llama:8b: 2GiB\nsmall: 900 MB\n")
    assert read_memory(file) == {"qwen-7b": 4_700_000_000, "org/llama:8b": 2 << 30, "small": 900_000_000}


@pytest.mark.parametrize("content", ["qwen-7b: 4.7", "qwen-7b: 4.7 gb", "qwen-7b: -1 GB", "qwen-7b: 0 GB", "qwen-7b:"])
def test_an_amount_without_a_unit_is_refused(content: str, tmp_path: Path):
    file = tmp_path / "memory.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError, match=r"memory.yaml: 'qwen-7b': memory has to be a number with a unit"):
        read_memory(file)


@pytest.mark.parametrize("spec", ["", "llama.cpp", "llama.cpp:", "triton:http://127.0.0.1:1"])
def test_a_backend_that_is_none_lists_those_there_are(spec: str):
    with pytest.raises(ConfigError, match=rf"has to be KIND:WHERE.*{', '.join(BACKENDS)}"):
        make_backend(spec)


@pytest.mark.parametrize("where", ["127.0.0.1:11434", "file:///etc/passwd", "http://", "http://a b", "http://a/?x=1"])
def test_an_address_that_is_none_is_refused(where: str):
    with pytest.raises(ConfigError, match=r"ollama: the address of the server has to be like http://127\.0\.0\.1:8080"):
        make_backend(f"ollama:{where}")
