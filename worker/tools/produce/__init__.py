"""Publishes records from a file, judged as the worker judges them.

`run` is one run of the command. `lines`, `columns` and `arrays` read files into `rows`, `forms` writes a record in the form that
is wanted, `publish` judges it by the worker's own decoder and sends it. `shaped` makes records of the topic's own shape from rows.
"""
