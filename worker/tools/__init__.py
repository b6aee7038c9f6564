"""What the commands for people do: try the parts, publish, look after dead letters, compare an index with its topic.

Nothing here runs in the worker. Each tool reads topics in no group and commits nothing.
"""
