"""Claims about the report of a comparison: its numbers, pictures, verdicts, and the screen at the end."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

pytest.importorskip("tyro", reason="needs the extra experiments")
pytest.importorskip("matplotlib", reason="needs the extra experiments")

from cace_env.cases import case_of
from cace_env.evaluation import paired_gain
from cace_env.evaluation.scores import Estimate, relative_cost
from cace_env.policies import POLICIES
from cace_env.policies.agent import LEARNED
from cace_env.simulation import METRICS, lower_bound
from cace_env.simulation.outcome import TraceRow
from cace_env.tables import NONE, TASKS, Protocol
from experiments import report
from experiments.compare import main
from experiments.reading.markdown import number, percent
from experiments.reading.verdicts import in_short
from experiments.reports.comparison import COLUMNS
from experiments.reports.leaderboard import MOST, Line, change_text, meaning, what_is
from experiments.reports.timelines import lanes_of, spans_of, thinned, waiting_of
from experiments.running.run_folder import Run
from experiments.running.timeline_rows import KEEP_ALIVE, Span, read_spans
from tests.specification.examples import fleet
from tests.support.comparisons import (
    HOME,
    column,
    finished,
    rows_of,
    small,
)
from tests.support.html_reports import Report
from tests.support.small import SMALL

__all__ = ["finished", "small"]  # fixtures


def test_the_report_holds_the_numbers_of_the_rows(finished: Path):
    page = Report(finished)
    gain = paired_gain(column(finished, "lru", "cost"), column(finished, "cace", "cost"))
    (row,) = [row for row in page.table("All policies, all scenarios") if row["policy"] == "cace"]
    assert row["cost saved against LRU"] == percent(gain).replace("**", "")
    for metric in ("ttft_mean_s", "ttft_p95_s", "e2e_mean_s", "evictions", "decisions"):
        assert row[COLUMNS[metric]] == number(np.mean(column(finished, "cace", metric))), metric
    assert "generated" in page.text and "assumed weights" in page.text
    assert json.loads((finished / "run.json").read_text())["command"] in page.text


def test_the_report_says_what_no_policy_can_cost_less_than(finished: Path, small: Path, tmp_path: Path):
    case = case_of(small)
    bounds = [lower_bound(case.tables, case.workload(seed)).cost for seed in (2_000_000, 2_000_001)]
    for policy in ("lru", "cace", "lru_in_python", "no-swapping"):
        assert column(finished, policy, "lower_bound") == bounds
        assert np.all(np.array(bounds) <= column(finished, policy, "cost"))
    lru = sum(column(finished, "lru", "cost"))
    least, without = 100 * sum(bounds) / lru, 100 * sum(column(finished, "no-swapping", "cost")) / lru
    text = Report(finished).text
    assert f"No policy can cost less than {least:.1f} % of LRU's cost" in text
    assert f"Without swapping it is {without:.1f} %, which is no bound" in text
    copy = tmp_path / "copy"  # a folder from before there were bounds
    shutil.copytree(finished, copy)
    (copy / "rows.csv").write_text((copy / "rows.csv").read_text().replace(",lower_bound,", ",bound_below,"))
    assert report.main([str(copy)]) == 0
    assert "No policy can cost less" not in Report(copy).text


def test_figures_hold_the_numbers_of_the_rows(finished: Path):
    figures, run = Report(finished).figures, Run(finished)
    assert {*figures} >= {"Cost saved against LRU", "Time to first token", "Who sat where"}
    dots = figures["Cost saved against LRU"]["small",]["data"]
    drawn = {name: x for trace in dots for name, x in zip(trace["y"], trace["x"], strict=True)}
    assert drawn["cace"] == pytest.approx(run.gain("small", "cace").percent, abs=1e-3)
    task = next(task for task in TASKS if ("small", "cace", task) in run.ttft)
    (curve,) = [line for line in figures["Time to first token"]["small", task]["data"] if line["name"] == "cace"]
    assert curve["y"] == sorted(curve["y"]) and curve["y"][-1] == 100
    assert {policy for _, policy in figures["Who sat where"]} == {"lru", "cace", "lru_in_python"}


def test_the_report_can_be_written_again_from_the_folder_alone(finished: Path, capsys: pytest.CaptureFixture[str]):
    before = (finished / "report.html").read_text()
    (finished / "report.html").unlink()
    assert report.main([str(finished)]) == 0
    assert (finished / "report.html").read_text() == before
    assert report.main([str(finished / "scenarios")]) == 2
    assert "no run.json" in capsys.readouterr().err


def test_histograms_of_the_folder_hold_every_answered_request(finished: Path):
    run = Run(finished)
    for policy in run.policies("small"):
        counted = sum(counts.sum() for (_, name, _), counts in run.ttft.items() if name == policy)
        assert counted == sum(column(finished, policy, "answered"))


def test_timelines_never_hold_more_than_the_memory(finished: Path):
    run = Run(finished)
    about = run.about["scenarios"]["small"]
    memory_gb = sum(about["accelerators"].values())
    assert {span.policy for span in read_spans(Run(finished))} == {"lru", "cace", "lru_in_python"}
    for policy in ("lru", "cace"):
        spans = [span for span in read_spans(Run(finished)) if span.policy == policy]
        assert sum(span.state == "loading" for span in spans) == column(finished, policy, "loads")[0]
        for moment in {span.from_s for span in spans}:
            held = [span.model for span in spans if span.from_s <= moment < span.to_s]
            assert len(set(held)) == len(held)
            assert sum(about["models"][model] for model in held) <= memory_gb + 0.1 * len(held)


def test_episodes_that_were_cut_short_are_left_out_of_every_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    # Decisions of whole episodes, to choose a limit that ends some and spares others.
    free, limited = tmp_path / "free.yaml", tmp_path / "limited.yaml"
    free.write_text(yaml.safe_dump(SMALL))
    arguments = ["--policies", "lru,fifo,lfu", "--seeds", "4"]
    assert main([*arguments, "--scenarios", str(free), "--out", str(tmp_path / "free")]) == 0
    decisions = {policy: column(tmp_path / "free", policy, "decisions") for policy in ("lru", "fifo", "lfu")}
    limit = int(np.median([*decisions.values()]))
    limited.write_text(yaml.safe_dump(SMALL | {"rules": {"max_decisions": limit}}))
    capsys.readouterr()
    assert main([*arguments, "--scenarios", str(limited), "--out", str(tmp_path / "out")]) == 0

    run, whole = Run(tmp_path / "out"), Run(tmp_path / "free")
    kept = {policy: np.array(counts) <= limit for policy, counts in decisions.items()}
    assert 0 < sum(k.sum() for k in kept.values()) < 12
    for policy, mask in kept.items():
        for metric in ("cost", "evictions", "ttft_p95_s"):
            values = np.array(column(tmp_path / "free", policy, metric))
            np.testing.assert_array_equal(run.columns["small", policy][metric], np.where(mask, values, np.nan))
            assert run.mean("small", policy, metric) == pytest.approx(
                values[mask].mean() if mask.any() else np.nan, nan_ok=True
            )
        both = mask & kept["lru"]
        expected = paired_gain(
            whole.columns["small", "lru"]["cost"][both], whole.columns["small", policy]["cost"][both]
        )
        assert run.gain("small", policy) == pytest.approx(expected, nan_ok=True)
        counted = sum(counts.sum() for (_, name, _), counts in run.ttft.items() if name == policy)
        assert counted == np.sum(np.array(column(tmp_path / "free", policy, "answered"))[mask])
    cut = {policy: int((~mask).sum()) for policy, mask in kept.items() if not mask.all()}
    assert run.cut_short("small") == cut
    said = f"of 4 episodes each, and left out of every number: {', '.join(f'{p} {n}' for p, n in cut.items())}."
    assert any("Cut short in small" in box and said in box for box in Report(tmp_path / "out").boxes)
    assert said in capsys.readouterr().out.replace("\n", " ")


def test_a_cut_episode_does_not_make_a_policy_the_cheapest(finished: Path, tmp_path: Path):
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "run.json").write_text((finished / "run.json").read_text())
    rows = rows_of(finished)
    for row in rows:
        if row["policy"] == "lru_in_python":  # what it cost until it was cut
            row["cost"], row["truncated"] = "0.001", "1.0"
    with (copy / "rows.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    run = Run(copy)
    assert run.ranking("small")[-1] == "lru_in_python"
    assert run.cheapest("small", "Your own") is None
    assert report.main([str(copy)]) == 0
    assert np.isnan(run.gain("small", "lru_in_python").percent)


def test_where_the_reference_ran_the_report_has_scores(finished: Path, tmp_path: Path):
    copy = tmp_path / "copy"
    copy.mkdir()
    about = json.loads((finished / "run.json").read_text())
    about["policies"]["reference"] = {"group": "Reference", "description": "made up"}
    (copy / "run.json").write_text(json.dumps(about))
    rows = rows_of(finished)
    # Of two seeds it was looked for on one.
    ran = [row for row in rows if row["policy"] == "lru" and row["seed"] == "2000001"]
    rows += [row | {"policy": "reference", "cost": str(float(row["cost"]) / 2)} for row in ran]
    with (copy / "rows.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    assert report.main([str(copy)]) == 0
    page = Report(copy)
    lru, cace = (column(finished, policy, "cost")[1] for policy in ("lru", "cace"))
    score = 100 * (lru - cace) / (lru / 2)
    scores = {row["score"]: row for row in page.table("Scores in Eviction-v0")}
    assert scores["cace"] == {"score": "cace", "interquartile mean": f"{score:.1f}", "small": f"{score:.1f}"}
    assert scores["headroom: LRU to reference"]["small"] == "+50.0 %"
    assert "The reference is there for 1 of 2 seeds" in page.text
    (row,) = [row for row in page.table("All policies, all scenarios") if row["policy"] == "cace"]
    assert row["score"] == number(score)
    assert "Scores" not in Report(finished).titles


def test_of_many_policies_those_that_people_look_for_fit_on_a_screen(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "out"
    own = [
        "--agent",
        "eviction",
        "--policies",
        ",".join([*POLICIES, "cace:tuned-eviction"]),
        "--policy",
        f"{HOME}:mru_in_python",
    ]
    assert main([*own, "--scenarios", str(small), "--seeds", "2", "--reference", "1", "--out", str(out)]) == 0
    shown = capsys.readouterr().out.splitlines()
    first = next(at for at, line in enumerate(shown) if line.startswith("policy"))
    rows = shown[first + 2 : next(at for at in range(first, len(shown)) if shown[at].startswith("Against LRU"))]
    names = [row.split()[0] for row in rows]
    assert 9 < len(names) <= MOST < len(Run(out).policies("small")) and max(map(len, rows)) <= 100
    assert {"reference", "agent:eviction", "mru_in_python", "cace:tuned-eviction", "cace", "lru"} < {*names}
    assert any("best Belady rule" in row for row in rows) and any("best cache rule" in row for row in rows)
    share = relative_cost(*({"small": column(out, who, "cost")} for who in ("cace", "lru")))
    assert change_text(share) in next(row for row in rows if row.startswith("cace "))


def test_one_episode_is_no_verdict(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "out"
    assert main(["--policies", "lru,cace", "--scenarios", str(small), "--seeds", "1", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "1 seed has no interval" in said.replace("\n", " ")
    page = Report(out)
    assert any("1 seed has no interval" in box for box in page.boxes)
    assert re.search(r"CACE against LRU: costs \d+\.\d % (more|less) on this one episode .no interval.\.", page.text)
    assert page.headline.startswith("No verdict yet: cace costs") and "1 seed are" not in page.headline


def test_few_seeds_get_numbers_but_no_verdict(finished: Path):
    page = Report(finished)
    assert any("2 seeds are too few for an interval to mean much" in box for box in page.boxes)
    for line in in_short(Run(finished)):
        assert "too few seeds for a verdict in small (" in line and "%" in line
        assert "costs" not in line and "told apart" not in line
    assert page.headline.startswith("No verdict yet") and "too few to tell luck from merit" in page.headline
    assert not re.search(r"<strong>[+-]\d", page.html)


def test_enough_seeds_get_a_verdict_for_cace_and_for_own_policies_alike(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "out"
    arguments = ["--policies", "lru,cace", "--policy", f"{HOME}:mru_in_python", "--scenarios", str(small)]
    assert main([*arguments, "--seeds", "10", "--out", str(out), "--all"]) == 0
    said = capsys.readouterr().out
    page = Report(out)
    assert not any("too few" in text for text in (said, page.headline, *page.boxes))
    assert re.match(r"\S+ saves \d+\.\d % of LRU's cost in small|No clear winner: ", page.headline)
    cace, own = in_short(Run(out))
    for name, line in (("CACE", cace), ("mru_in_python", own)):
        assert re.match(rf"\*\*{name} against LRU\*\*: (costs (less|more)|cannot be told apart) in small \(", line)
    assert "mru_in_python" in said.partition("Cost saved against LRU [%]")[2]  # the closing table has a column for it


def test_a_scenario_in_which_nobody_is_asked_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    roomy = tmp_path / "roomy.yaml"
    roomy.write_text(yaml.safe_dump({**SMALL, "name": "roomy", "pressure": 0.9}))
    out = tmp_path / "out"
    assert main(["--policies", "lru,cace", "--scenarios", str(roomy), "--seeds", "2", "--out", str(out)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "othing to decide here: no policy is ever asked" in said and "to change that, raise `pressure`" in said
    page = Report(out)
    assert page.headline == "Nothing to decide: no policy is ever asked, so all cost the same."
    assert any("to change that, raise pressure" in box for box in page.boxes)


def test_actions_that_were_replaced_stand_beside_the_results(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "out"
    arguments = ["--policies", "lru", "--policy", f"{HOME}:KnowsNoMasks", "--scenarios", str(small)]
    arguments += ["--seeds", "2", "--out", str(out)]
    assert main(arguments) == 1
    assert "is not legal" in (said := capsys.readouterr().err) and "--illegal replace" in said
    shutil.rmtree(out, ignore_errors=True)
    assert main([*arguments, "--illegal", "replace"]) == 0
    counts, decisions = column(out, "KnowsNoMasks", "illegal_actions"), column(out, "KnowsNoMasks", "decisions")
    assert sum(counts) > 0 and np.isnan(column(out, "lru", "illegal_actions")).all()
    expected = f"Actions of KnowsNoMasks that were not legal: {sum(counts):,.0f} of {sum(decisions):,.0f}."
    assert any(expected in box for box in Report(out).boxes)
    assert expected in " ".join(capsys.readouterr().out.split())


def test_spans_follow_the_event_trace():
    tables = fleet(need=(6, 6), resident_on=(0, NONE))
    trace = [
        TraceRow(4_000_000, "ARRIVAL", 0, 0),
        TraceRow(4_000_000, "ADMITTED", 0, 0),
        TraceRow(7_000_000, "ARRIVAL", 1, NONE),
        TraceRow(10_000_000, "VICTIM", 0, 0),
        TraceRow(10_000_000, "UNLOAD_START", 0, 0),
        TraceRow(12_000_000, "UNLOAD_DONE", 0, 0),
        TraceRow(12_000_000, "LOAD_START", 1, 0),
        TraceRow(15_000_000, "LOAD_DONE", 1, 0),
        TraceRow(15_000_000, "ADMITTED", 1, 0),
    ]
    spans = spans_of(trace, tables, [0, 1], end_us=20_000_000)
    assert [tuple(span)[3:8] for span in spans] == [
        ("gpu-0", "model-0", "resident", 0.0, 10.0),
        ("gpu-0", "model-0", "unloading", 10.0, 12.0),
        ("gpu-0", "model-1", "loading", 12.0, 15.0),
        ("gpu-0", "model-1", "resident", 15.0, 20.0),
    ]
    stays, leaves, loads, last = spans
    assert (stays.target, stays.unused_s) == (leaves.target, leaves.unused_s) == ("model-1", 6.0) and last.target == ""
    assert (loads.waiting, loads.oldest_s) == (1, 8.0)
    assert waiting_of(trace) == [(0.0, 0), (7.0, 1), (15.0, 0)]


def test_a_model_whose_keep_alive_ran_out_makes_room_for_nobody():
    trace = [TraceRow(10_000_000, "UNLOAD_START", 0, 0), TraceRow(12_000_000, "UNLOAD_DONE", 0, 0)]
    trace += [TraceRow(14_000_000, "LOAD_START", 1, 0), TraceRow(15_000_000, "LOAD_DONE", 1, 0)]
    _, leaves, loads, _ = spans_of(trace, fleet(need=(6, 6), resident_on=(0, NONE)), [], end_us=20_000_000)
    assert leaves.target == KEEP_ALIVE and np.isnan(leaves.unused_s) and loads.waiting == 0


def test_fewer_changes_of_the_queue_still_have_its_greatest_length_and_its_end():
    changes = [(float(at), at % 7) for at in range(1000)] + [(1000.0, 99), (1001.0, 0)]
    few = thinned(changes, 50)
    assert len(few) <= 51 and max(count for _, count in few) == 99 and few[-1][1] == 0
    assert thinned(changes, 5000) == changes


def test_a_model_keeps_its_row_when_the_next_load_begins_as_its_own_ends():
    def span(model: str, state: str, from_s: float, to_s: float) -> Span:
        return Span("small", "lru", 1, "gpu-0", model, state, from_s, to_s)

    spans = [
        span("a", "loading", 0, 1),
        span("b", "loading", 1, 2),
        span("a", "resident", 1, 5),
        span("b", "resident", 2, 5),
    ]
    assert lanes_of(spans, ["gpu-0"])["gpu-0"] == [
        (spans[0], 0),
        (spans[2], 0),
        (spans[1], 1),
        (spans[3], 1),
    ]


def test_the_page_explains_every_metric_and_its_example_runs():
    page = (Path(__file__).parents[2] / "docs" / "compare.md").read_text()
    tasks = tuple(f"{task}_" for task in TASKS)
    assert [name for name in METRICS if f"`{name}`" not in page and not name.startswith(tasks)] == []
    example, of_another_library = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    compile(of_another_library, "docs/compare.md", "exec")  # to run, it needs a library and a trained model
    exec(compile(example, "docs/compare.md", "exec"), {"__name__": "example"})


def test_a_planner_around_an_agent_is_not_called_an_agent(finished: Path):
    run = Run(finished)
    run.about["policies"]["planner:eviction"] = {"group": LEARNED}
    share = Estimate(0.9, 0.88, 0.92)
    lines = [
        Line(policy, what_is(run, policy, Protocol.EVICTION), {"cost": share})
        for policy in ("planner:eviction", "cace")
    ]
    assert meaning(lines).startswith("Against LRU, the planner ") and "agent" not in meaning(lines)
