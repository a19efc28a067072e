"""From a job's success to its model's first token: `python -m bench.first_token`."""
