"""`luthier serve`: starts PostgreSQL, Valkey and all processes on one machine, restarts what dies, stops them together.

Imports `storage` and `foundation`; runs the others, but imports none. Begin with `stack`.
"""
