"""The demo: every answer is whole, it leaves no process behind, and says what is wrong with a server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cace_env.live.backends import processes
from experiments.live import main
from tests.live.real_servers import children_of, is_running, need


@pytest.mark.integration
def test_the_demo_serves_under_each_policy(capsys: pytest.CaptureFixture[str]):
    need("llama.cpp")
    before = children_of(os.getpid())  # of other tests in this process
    assert main(["demo", "--policies", "lru", "cace", "--requests", "2"]) == 0
    said = capsys.readouterr().out
    lines = {line.split()[0]: line.split() for line in said.splitlines() if line.startswith(("lru ", "cace "))}
    assert [line[1:3] for line in lines.values()] == [["12", "0"], ["12", "0"]]
    assert "not what a policy gains" in said
    assert not [pid for pid in set(children_of(os.getpid())) - {*before} if is_running(pid)]


@pytest.mark.integration
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_demo_that_is_interrupted_leaves_no_process(number: int):
    need("llama.cpp")
    command = [sys.executable, "-m", "experiments.live", "demo", "--policies", "lru", "--requests", "1000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as demo:
        try:
            assert demo.stdout is not None
            while "shows what it does" not in (line := demo.stdout.readline()):
                assert line, demo.stderr
            time.sleep(0.5)  # under load
            servers = children_of(demo.pid)
            models = [model for server in servers for model in children_of(server)]
            assert servers
            demo.send_signal(number)
            assert demo.wait(30.0) == 130
        finally:
            demo.kill()
    assert not [pid for pid in (*servers, *models) if is_running(pid)]


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'libvulkan.so.1: no such file'; exit 127", "ended with status 127; its last words: libvulkan.so.1: no"),
        ("kill -ILL $$", "was ended by SIGILL"),
    ],
)
def test_a_server_that_does_not_run_here_is_said(
    script: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    binary = tmp_path / "llama-server"
    binary.write_text(f"#!/bin/sh\n{script}\n")
    binary.chmod(0o755)
    monkeypatch.setattr(processes, "find_llama_server", lambda: binary)
    assert main(["demo"]) == 2
    error = capsys.readouterr().err
    assert "llama-server does not run here" in error and said in error and "docs/live.md" in error
