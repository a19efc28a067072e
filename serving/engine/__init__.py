"""The engine: sequences of token ids in, generated tokens out, whoever asks.

Knows no HTTP and no storage. Begin with `engine`; `schedule` decides who computes what in a step.
"""
