"""Claims about calibration without a server, on the CPU: a decoder with random weights that is measured alike."""

from __future__ import annotations

import itertools

import pytest

from cace_env.config import ConfigError
from cace_env.fleets import MODELS
from cace_env.live.calibration import Plan, drift_percent, fit_model
from experiments.calibration.torch_form import TOKENS, Architecture, Decoder, architecture, decoders_of, measure_torch

torch = pytest.importorskip("torch")
TINY = Architecture(layers=2, heads=4, kv_heads=2, head_dim=8, inner=64)


@pytest.fixture
def decoder() -> Decoder:
    made = Decoder(TINY, "cpu")
    made.load()
    return made


def test_a_prompt_in_parts_gives_the_same_token_and_cache_as_the_whole(decoder: Decoder):
    tokens = torch.randint(TOKENS, (1, 20), generator=torch.Generator().manual_seed(1))
    whole, parts = decoder.cache(1, 20), decoder.cache(1, 20)
    wanted = decoder.step(tokens, whole, 0)
    for at in (0, 7, 14):
        got = decoder.step(tokens[:, at : at + 7], parts, at)
    assert torch.equal(got, wanted)
    assert torch.allclose(whole, parts, atol=1e-5)


def test_a_later_token_changes_nothing_before_it(decoder: Decoder):
    tokens = torch.randint(TOKENS, (1, 8), generator=torch.Generator().manual_seed(1))
    one, other = decoder.cache(1, 8), decoder.cache(1, 8)
    decoder.step(tokens, one, 0)
    decoder.step(torch.cat((tokens[:, :-1], (tokens[:, -1:] + 1) % TOKENS), dim=1), other, 0)
    assert torch.allclose(one[..., :-1, :], other[..., :-1, :])
    assert not torch.allclose(one[0, ..., -1, :], other[0, ..., -1, :])


@pytest.mark.parametrize(
    "name", [name for name, row in MODELS.items() if row.quantisation == "bf16" and row.experts[1] == 1]
)
def test_random_weights_are_as_large_as_the_real_ones(name: str):
    shape = architecture(name)
    width, kv = shape.width, shape.kv_heads * shape.head_dim
    layer = 2 * width * width + 2 * width * kv + 3 * width * shape.inner
    assert 2 * TOKENS * width + shape.layers * layer == pytest.approx(MODELS[name].params_b * 1e9, rel=0.01)


def test_models_that_plain_torch_cannot_make_are_refused():
    with pytest.raises(ConfigError, match="dense models in bf16"):
        architecture("qwen2.5-coder-7b-int4")
    with pytest.raises(ConfigError, match="dense models in bf16"):
        architecture("qwen3-coder-30b-a3b")
    with pytest.raises(ConfigError, match="known are"):
        architecture("no-such")
    with pytest.raises(ConfigError, match="no such device"):
        decoders_of(["qwen2.5-coder-0.5b"], "tpu")


def test_its_samples_can_be_fitted(decoder: Decoder):
    """With a clock that counts the calls of a step: no time of this machine is in it."""
    steps = itertools.count()
    clock_s = 0.0

    class Counted(Decoder):
        def step(self, *arguments: object) -> object:  # type: ignore[override]
            nonlocal clock_s
            next(steps)
            clock_s += 0.01
            return super().step(*arguments)  # type: ignore[arg-type]

        def load(self) -> None:
            nonlocal clock_s
            clock_s += 0.5
            super().load()

        def unload(self) -> None:
            nonlocal clock_s
            clock_s += 0.1
            super().unload()

    plan = Plan(repeats=2, lengths=(64, 128, 256), contexts=(16, 64), tokens=4)
    samples = list(measure_torch({"tiny": Counted(TINY, "cpu")}, plan, 64, lambda: clock_s))
    one = fit_model(samples, "tiny", 64)
    assert one.load_us[0] == pytest.approx(500_000)
    assert one.unload_us == pytest.approx(100_000)
    assert one.round_ns + one.decode_ns == pytest.approx(10_000_000, rel=0.01)
    assert one.fits[1].error_percent < 1
    assert drift_percent(samples) == pytest.approx(0.0, abs=1e-6)
