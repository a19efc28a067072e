"""Everything that outlives a process: rows, blobs, the queue, the states of a job."""
