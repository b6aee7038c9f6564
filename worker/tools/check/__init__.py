"""Tries every part that a run needs, one finding for each, and changes nothing.

`report` is what is found and how it is shown, `run` tries all sections at once within a time limit, and each other module
is a section.
"""
