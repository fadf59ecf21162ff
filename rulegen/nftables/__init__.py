"""The nftables target: ServicePorts become entries, the kernel's tables the same entries, and a Delta one transaction.

The ruleset is a fixed part (`templates/nftables/`) whose data are the elements of its sets and maps. Knows nothing
of Kubernetes objects, nor of the other target.
"""
