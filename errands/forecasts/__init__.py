"""Forecasts that were asked for without a job: a file is read as the worker would read it, by a process of its own."""
