"""/v1/files and /v1/uploads: files in, whole or in parts, in constant memory.

Begin with `files`; `form_file` is the way from the socket to the blob.
"""
