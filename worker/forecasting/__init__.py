"""`python -m worker.forecasting`: what a job would do with its files, for who only wants to know. No database, no torch."""
