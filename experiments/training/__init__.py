"""Trainings: options, loop, folder, tracking."""
