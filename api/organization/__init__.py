"""/v1/organization: projects, keys, service accounts, usage; for who holds an admin key.

Begin with `projects`.
"""
