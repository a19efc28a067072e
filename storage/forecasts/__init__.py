"""Forecasts of jobs: what each was said to take, and what it took."""
