"""The settings: their tables, reading them, their rules, and showing them.

Why this is our own code and not pydantic-settings. Both were compared with what the settings promise (pydantic-settings 2.16
with pydantic 2.14, Python 3.11, in 2026):

- The same in both: types and bounds declared once, a TOML file, nested variables (`A__B`), the environment over the file,
  several mistakes in one error.
- Not there, and to be written beside it: the origin of each value in force; `<name>_file` for any setting (it reads a folder
  of secrets instead); an unknown variable (`OSS_VECTORS_BATCH__MAX_RECORD`) in a table that has no other variable, or in no
  table, and a single underscore for two (it ignores all of them silently); the rules between settings; `config --example`.
- Different, and to be undone: a variable with a list must be JSON; one that is not ends with the first mistake alone; a file's
  "7" passes for a number; the text of an error quotes the value unless every model says otherwise, a secret of a wrong type
  too, and links to a page of the library.
- Cost: 7 packages and 10 MB; importing it alone takes 1.6 times the CPU of importing this whole package, and every command
  pays it.
- The dependencies are fixed: kafka-python, msgspec, requests, prometheus-client. msgspec does for the types and bounds what
  pydantic would do.

What would be saved is the walk over the tables in `load.py`, some 80 lines. What would stay is all the rest. It is worth
another look when pydantic-settings keeps the origin of values and refuses unknown variables.
"""
