"""HTTP in: the control plane, and the gateway to the inference servers.

Imports `storage`, `grading` and what is below them; no torch, no worker. Begin with `app`; a folder is a resource.
"""
