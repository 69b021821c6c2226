"""Calibration: what a real server takes for loads, prompts and tokens, and the coefficients of the rules from it."""

from cace_env.live.calibration.fit import Calibration, Fit, drift_percent, findings, fit_model
from cace_env.live.calibration.measure import Plan, Sample, measure, spans

__all__ = ["Calibration", "Fit", "Plan", "Sample", "drift_percent", "findings", "fit_model", "measure", "spans"]
