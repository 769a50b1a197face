"""Calibration maps of an engine control unit: list, read, and check for outliers."""
