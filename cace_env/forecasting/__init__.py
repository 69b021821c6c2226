"""Forecasts of arrivals from what an orchestrator has seen: forecasters behind one interface."""

from cace_env.forecasting.forecasters import FORECASTERS, Forecaster, Rates
from cace_env.forecasting.survival import Survival, Survivors, fit_survival, load_survival

__all__ = ["FORECASTERS", "Forecaster", "Rates", "Survival", "Survivors", "fit_survival", "load_survival"]
