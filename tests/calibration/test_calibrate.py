"""Claims about the command: what it leaves behind, against the real llama-server and tiny models."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from cace_env.config import ConfigError
from cace_env.live.calibration import Plan, fit_model
from cace_env.live.tiny_models import TINY_MODELS, write_tiny_models
from cace_env.scenarios import load_scenario
from experiments import calibrate
from experiments.calibration.outputs import Sizes, scenario_of, write_samples
from experiments.calibration.page import page_of
from experiments.reports.page import write_page
from tests.calibration.test_calibration import measured
from tests.calibration.virtual_server import Delays, VirtualServer
from tests.live.real_servers import SECOND, SMALLEST, need


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


SIZE = Sizes(10**9, 2 * 10**9, 4096, 4, 2048)


@pytest.mark.slow  # and timing on a busy machine is not what every change has to pass: `make test-live` runs it
@pytest.mark.integration
def test_a_real_server_is_measured_and_the_scenario_can_be_loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    need("llama.cpp")
    files = write_tiny_models(tmp_path / "models", {name: TINY_MODELS[name] for name in (SMALLEST, SECOND)})
    quick = ["--repeats=1", "--lengths", "32", "128", "--batches", "1", "2", "--contexts=32", "--tokens=16"]
    out = tmp_path / "out"
    models = [str(path) for path in files.values()]
    assert calibrate.main(["llama.cpp", "--models", *models, "--out", str(out), *quick, "--most-drift=1000000"]) == 0
    assert "drifted by" in capsys.readouterr().out
    rows = rows_of(out / "samples.csv")
    assert {row["model"] for row in rows} == {SMALLEST, SECOND}
    assert {"load warm", "load cold", "unload", "token beside load"} <= {row["what"] for row in rows}
    assert all(float(row["seconds"]) >= 0 for row in rows)
    scenario = load_scenario(out / "scenario.yaml")
    tables = scenario.tables()
    assert tables.model_names == (SMALLEST, SECOND)
    assert tables.weights_bytes.tolist() == [path.stat().st_size for path in files.values()]
    assert tables.host_cached.all(), "the page cache holds them"
    assert (tables.need_bytes > tables.weights_bytes).all(), "the KV cache comes on top"
    fits = json.loads((out / "calibration.json").read_text())
    assert [model["model"] for model in fits["models"]] == [SMALLEST, SECOND]
    assert (tables.prefill_ns[0] == [model["prefill_ns"] for model in fits["models"]]).all()
    assert (out / "report.html").stat().st_size > 100_000


def test_a_machine_that_drifts_gets_a_report_but_no_scenario(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    steady = measured(VirtualServer({"one": Delays()}), Plan(pairs=False))
    slower = [s._replace(seconds=1.2 * s.seconds) if s.what.endswith("end") else s for s in steady]

    async def with_server(*_: object) -> object:
        return slower, {"one": SIZE}, False

    monkeypatch.setattr(calibrate, "_with_server", with_server)
    assert calibrate.main(["ollama:http://127.0.0.1:1", "--out", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "drifted by +20.0 %" in said
    assert "unverified against the real server" in said
    assert (tmp_path / "report.html").exists()
    assert (tmp_path / "samples.csv").exists()
    assert not (tmp_path / "scenario.yaml").exists()
    assert calibrate.main(["ollama:http://127.0.0.1:1", "--out", str(tmp_path), "--most-drift", "25"]) == 0
    assert load_scenario(tmp_path / "scenario.yaml").tables().model_names == ("one",)


def test_every_measurement_is_a_row(tmp_path: Path):
    samples = measured(VirtualServer({"one": Delays()}), Plan(repeats=1, pairs=False))
    write_samples(samples, tmp_path)
    rows = rows_of(tmp_path / "samples.csv")
    assert [(row["what"], int(row["context"])) for row in rows] == [(s.what, s.context) for s in samples]
    assert [float(row["seconds"]) for row in rows] == pytest.approx([s.seconds for s in samples], abs=1e-9)


def test_names_from_a_server_are_escaped_on_the_page(tmp_path: Path):
    samples = measured(VirtualServer({"<script>x</script>": Delays()}), Plan(repeats=1, pairs=False))
    page = page_of([fit_model(samples, "<script>x</script>", 2048)], 0.0, 10.0, (), "now")
    text = write_page(page, tmp_path / "page.html").read_text()
    assert "<script>x" not in text
    assert "&lt;script&gt;x" in text


def test_all_that_was_measured_stands_in_the_tables_of_the_scenario():
    delays = Delays(batch_two=2.0, decode=0.0, kv=0.0, beside=1.5, two_busy=2.4)
    samples = measured(VirtualServer({"one": delays, "two": delays}), Plan(repeats=1))
    found = [fit_model(samples, name, 2048) for name in ("one", "two")]
    tables = scenario_of(found, {"one": SIZE, "two": SIZE}, None, "mine").tables()
    assert tables.batch_ns.tolist() == [[list(one.batch_ns) for one in found]]
    assert tables.request_ns.tolist() == [[one.request_ns for one in found]]
    assert tables.load_slowdown / 1000 == pytest.approx([1.5], rel=0.02)
    assert tables.whole_rounds


def test_memory_is_enough_for_the_largest_model_where_none_is_given():
    samples = measured(VirtualServer({"one": Delays(), "two": Delays()}), Plan(repeats=1, pairs=False))
    found = [fit_model(samples, name, 2048) for name in ("one", "two")]
    sizes = {"one": SIZE, "two": SIZE._replace(need_bytes=10 * 10**9)}
    assert scenario_of(found, sizes, None, "mine").tables().memory_bytes.tolist() == [10 * 10**9]
    assert scenario_of(found, sizes, 11 * 10**9, "mine").tables().memory_bytes.tolist() == [11 * 10**9]
    with pytest.raises(ConfigError, match="needs 10"):
        scenario_of(found, sizes, 9 * 10**9, "mine")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["torch:cpu"], "name models of the catalogue"),
        (["ollama:http://127.0.0.1:1", "--models", "a.gguf"], "go with the backend llama.cpp"),
        (["llama.cpp", "--models", "no.gguf"], "there is no such file"),
    ],
)
def test_options_that_cannot_be_are_refused(
    tmp_path: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
):
    assert calibrate.main([*arguments, "--out", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert said in " ".join((captured.out + captured.err).split())
