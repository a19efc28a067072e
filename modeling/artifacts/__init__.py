"""What training made, as files: `artifact` says what one is, and each kind of them is a file of its own that reads, writes and
checks it, listed in `kinds`. Imports nothing of the house. Begin with `artifact`.
"""
