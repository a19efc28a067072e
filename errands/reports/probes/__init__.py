"""What models are asked to see what they still know and do: a set of the project's own, in `probes.json`.

It is versioned, and never training data. Begin with `probe_set`.
"""
