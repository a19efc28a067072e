"""Files, and uploads that become files part by part.

Imports the files of `storage` beside it. Begin with `files`.
"""
