"""Artifacts of every kind that come and go under everything else, in one process with the server, whose inside is looked at
afterwards: `python -m bench.churn`. (`bench.soak` looks from outside, at the default base.)

Requests that arrive at random, are read, cancelled or hung up on; schemas that nobody has asked for before; adapters and models
that are published, loaded, put away for others and deleted; what no server should take. All of it is a function of a seed.
`__main__` drives, `actions` are what happens, `artifacts` what is published, `leaks` what must be as it was at the end.
"""
