"""Events come in from the API server or from files; the kernel is kept equal to what they mean.

One thread does the work: it takes what has arrived and has the reconciler commit what differs. Sources run in threads
of their own and only hand events over. Decides nothing about packets.
"""
