"""Publishes records from a file, judged as the worker judges them.

`rows` and `columns` read files, `forms` writes a record in the form that is wanted, `judge` asks the worker's own decoder,
`publish` sends.
"""
