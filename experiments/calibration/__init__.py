"""Calibration of a real server: what is measured without one (torch), and what is written."""
