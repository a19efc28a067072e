"""/v1/batches: create, list, retrieve, cancel. The errands process does the work.

Begin with `batches`.
"""
