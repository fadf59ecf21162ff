"""The nftables target: Routes become entries, the kernel's tables the same entries, and a Delta one transaction.

The ruleset is a fixed program (`templates/nftables/`) whose data are the elements of its sets and maps. Knows nothing
of Kubernetes objects, nor of the other target.
"""
