"""What training made, as files: `artifact` says what one is, and each kind of them is a file of its own that reads, writes and
checks it, listed in `kinds`. A new kind is such a file, a line there, and a name in `SERVED_KINDS` of storage/models/artifacts.py once
inference servers apply it. Imports nothing of the house. Begin with `artifact`.
"""
