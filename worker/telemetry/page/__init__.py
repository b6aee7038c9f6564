"""The page for people on call: what the metrics say now and said in the last minutes, what blocks, the last dead letters.

It reads what /metrics reads. A small ring keeps one sample for each `figures.STEP_SECONDS`; it is read between the requests
to the HTTP server. No text of a record is shown.

The page is made without a template engine, and its charts without a chart library:

- Every element is a node of a tree, and the standard library writes the tree. So each text is escaped wherever it is shown.
  In a template, jinja2's for example, that is a setting which one `safe` switches off again, and the texts shown here are
  those of the service and of brokers.
- A function returns a section, with types that are checked. `html.py`, which makes the nodes, has some 60 lines. jinja2 would
  be one more dependency of every deployment, to be kept up to date for one page.
- A chart is a path of 180 points. A chart library runs in the browser, where this page allows one script of its own and
  loads nothing, or it is an engine such as matplotlib, which is larger than the worker itself.
"""
