"""The commands, a module for each: arguments become calls, results become text and exit statuses.

In come words of the command line, out go text, exit statuses and calls of the rooms below. A command decides nothing
that they could, and no command knows another: what several need is in `options`, `output`, `reading` and `targets`.
Rooms are imported inside the functions that need them, so that `--help` is there at once.
"""
