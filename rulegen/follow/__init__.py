"""One packet, followed through rules: those that were compiled or that are in the kernel come in, its way goes out.

The evaluator of `netfilter` follows it, chain by chain, and asks sets for the keys alone that the packet has, so that
what it costs does not grow with the cluster. Knows the drivers' rules, but neither a feature nor an object.
"""
