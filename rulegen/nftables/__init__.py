"""The nftables driver: what features compile and the kernel lists are the same entries; a Delta is one transaction.

Features bring tables of their own (`tables.TableCompiler`), each a fixed part (`templates/nftables/`) whose data are
the elements of its sets and maps; `driver` is the door. Knows nothing of Kubernetes objects, nor of the other driver.
"""
