"""What may come, from what an orchestrator has seen: forecasters behind one interface, and sampled futures."""

from cace_env.forecasting.fitting import fit_habits, played
from cace_env.forecasting.forecasters import FORECASTERS, BinnedRates, Forecaster
from cace_env.forecasting.habits import Habits, HabitsCard, load_habits, save_habits
from cace_env.forecasting.sampled import SampledCounts
from cace_env.forecasting.sampler import SampledFuture, Sampler
from cace_env.forecasting.survival import Survivors, fit_survival

__all__ = [
    "FORECASTERS",
    "BinnedRates",
    "Forecaster",
    "Habits",
    "HabitsCard",
    "SampledCounts",
    "SampledFuture",
    "Sampler",
    "Survivors",
    "fit_habits",
    "fit_survival",
    "load_habits",
    "played",
    "save_habits",
]
