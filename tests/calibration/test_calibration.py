"""Claims about calibration: known delays are found again, and what the rules cannot express is said."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from cace_env.config import ConfigError
from cace_env.live.calibration import Calibration, Plan, Sample, drift_percent, findings, fit_model, measure
from cace_env.live.calibration.gguf_files import kv_bytes_per_token
from cace_env.live.tiny_models import TINY_MODELS, write_tiny_models
from tests.calibration.virtual_server import Delays, VirtualServer, in_virtual_time

SMALL, LARGE = Delays(), Delays(load=2.0, unload=0.2, round=0.05, decode=0.0, kv=0.0, prefill=0.004, attention=0.0)

DEFAULT = Plan()


def measured(server: VirtualServer, plan: Plan = DEFAULT) -> list[Sample]:
    async def run() -> list[Sample]:
        names = [model.name for model in await server.models()]
        return [sample async for sample in measure(server, names, plan)]

    return in_virtual_time(run)


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    return measured(VirtualServer({"small": SMALL, "large": LARGE}))


def found(samples: list[Sample], name: str) -> Calibration:
    return fit_model(samples, name, chunk_tokens=2048)


@pytest.mark.parametrize(("name", "delays"), [("small", SMALL), ("large", LARGE)])
def test_known_delays_are_found_again(samples: list[Sample], name: str, delays: Delays):
    one = found(samples, name)
    assert one.load_us[0] == pytest.approx((delays.load + delays.first) * 1e6, rel=0.01)
    assert one.unload_us == pytest.approx(delays.unload * 1e6, rel=0.01)
    assert one.round_ns == pytest.approx(delays.round * 1e9, rel=0.02)
    assert one.decode_ns == pytest.approx(delays.decode * 1e9, rel=0.1, abs=1e4)
    assert one.kv_ps == pytest.approx(delays.kv * 1e12, rel=0.1, abs=1e4)
    assert one.prefill_ns == pytest.approx(delays.prefill * 1e9, rel=0.02)
    assert one.attention_ps == pytest.approx(delays.attention * 1e12, rel=0.02, abs=1e4)
    assert one.batch_ns == pytest.approx([batch * one.decode_ns for batch in range(5)], rel=0.1, abs=1e5)
    assert one.request_ns == pytest.approx(delays.constant * 1e9, rel=0.1)
    assert all(abs(fit.worst_percent) < 2 for fit in one.fits)


def test_slowdowns_beside_a_load_and_beside_another_model_are_found(samples: list[Sample]):
    one = found(samples, "large")
    assert one.beside_load == pytest.approx(1.15, rel=0.02)
    assert one.two_busy == pytest.approx(2.3, rel=0.02)


def test_the_rule_for_cached_prefixes_holds_where_the_server_obeys_it(samples: list[Sample]):
    assert found(samples, "small").cached_percent == pytest.approx(0.0, abs=2.0)


def test_what_the_rules_cannot_express_is_said_with_numbers(samples: list[Sample]):
    said = " ".join(findings(found(samples, "large")))
    assert "cold loads were not measured" in said
    assert "tokens take 2.30 times as long beside another busy model; the rules say 2" in said
    assert "beside a load" not in said
    assert "at once" not in said


def test_a_batch_that_is_no_straight_line_is_a_table():
    bent = measured(VirtualServer({"bent": Delays(batch_two=2.0, decode=0.0, kv=0.0)}), Plan(pairs=False))
    one = found(bent, "bent")
    rounds_ns = [one.round_ns + batch_ns for batch_ns in one.batch_ns]
    assert rounds_ns[1:] == pytest.approx([20e6, 40e6, 40e6, 40e6], rel=0.01)
    assert one.gap_s(9, 100, 0) == pytest.approx(0.040, rel=0.01)
    assert abs(one.fits[0].worst_percent) < 2
    assert one.beside_load is None
    assert one.two_busy is None


def test_a_context_that_counts_in_one_batch_alone_is_said():
    bent = measured(VirtualServer({"bent": Delays(batch_two=3.0, decode=0.0, kv=1e-4)}), Plan(pairs=False))
    assert any("alike in every batch" in line for line in findings(found(bent, "bent")))


def test_speed_beside_others_that_the_rules_do_not_express_is_said(samples: list[Sample]):
    one = found(samples, "large")
    overlapping = " ".join(findings(replace(one, beside_load=0.5, two_busy=0.7)))
    assert "0.50 times as long beside a load; the rules say at least 1" in overlapping
    assert "0.70 times as long beside another busy model; the rules say 2" in overlapping
    assert "beside" not in " ".join(findings(replace(one, beside_load=1.5, two_busy=1.9)))  # within 10 %


def test_a_steady_machine_does_not_drift_and_one_that_slows_down_does(samples: list[Sample]):
    assert drift_percent(samples) == pytest.approx(0.0, abs=1.0)
    end_s = samples[-1].at_s
    slower = measured(VirtualServer({"small": SMALL, "large": LARGE}, slower_after=0.8 * end_s, slower=1.25))
    assert drift_percent(slower) == pytest.approx(25.0, abs=2.0)


def test_the_server_is_left_as_it_was():
    server = VirtualServer({"small": SMALL, "large": LARGE})

    async def run() -> dict[str, str]:
        await server.load("large")
        async for _ in measure(server, ["small"], Plan(repeats=1, pairs=False)):
            pass
        return {model.name: model.state for model in await server.models()}

    assert in_virtual_time(run) == {"small": "absent", "large": "resident"}


def test_a_model_that_was_not_measured_whole_is_refused(samples: list[Sample]):
    with pytest.raises(ConfigError, match="'prefill'"):
        fit_model([s for s in samples if s.what != "prefill"], "small", 2048)
    with pytest.raises(ConfigError, match="at the end"):
        drift_percent([s for s in samples if s.what != "drift token end"])


def test_fast_tokens_that_come_bunched_are_averaged():
    """A server whose tokens come ten at a time, 0.2 ms each: the median gap would be nothing."""
    fast = Delays(round=0.0002, decode=0.0, kv=0.0, bunch=10)
    one = found(measured(VirtualServer({"fast": fast}), Plan(pairs=False)), "fast")
    assert one.gap_s(1, 100, 0) == pytest.approx(0.0002, rel=0.05)


def test_batches_may_leave_one_out():
    one = found(measured(VirtualServer({"one": SMALL}), Plan(batches=(2, 4), pairs=False)), "one")
    assert one.gap_s(2, 100, 0) == pytest.approx(0.0284, rel=0.02)


def test_tokens_without_text_count_in_the_time_of_a_token():
    """A letter of several tokens comes with the last of them."""
    half = found(measured(VirtualServer({"half": Delays(decode=0.0, kv=0.0, silent=2)}), Plan(pairs=False)), "half")
    assert half.gap_s(1, 100, 0) == pytest.approx(0.020, rel=0.05)


def test_cold_loads_are_measured_where_the_file_is_known(tmp_path: Path):
    file = tmp_path / "small.gguf"
    file.write_bytes(bytes(10_000))
    plan = Plan(repeats=2, files={"small": [file]}, pairs=False)
    one = found(measured(VirtualServer({"small": SMALL}), plan), "small")
    assert one.cold
    assert one.spread["load cold"][0] == 2
    assert not math.isnan(one.spread["load cold"][1])


def test_the_cache_of_a_token_is_read_from_the_file(tmp_path: Path):
    pytest.importorskip("gguf")
    path = write_tiny_models(tmp_path, {"tiny-6m": TINY_MODELS["tiny-6m"]})["tiny-6m"]
    assert kv_bytes_per_token(path) == 3 * 2 * (2 * 192 // 6) * 2
    (tmp_path / "no.gguf").write_bytes(b"GGUF, but not really")
    with pytest.raises(ConfigError, match=r"no\.gguf: no GGUF file"):
        kv_bytes_per_token(tmp_path / "no.gguf")
