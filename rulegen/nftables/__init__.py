"""The nftables target: Routes in, entries out; the kernel's table in, the same entries out; a Delta in, one transaction out.

The ruleset is a fixed program (`templates/nftables/`) whose data are the elements of its sets and maps. Knows nothing
of Kubernetes objects, nor of the other target.
"""
