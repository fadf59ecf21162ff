"""The iptables target: ServicePorts become chains, iptables-save lists the same, a Delta is a restore for each table.

A fixed part (`templates/iptables/`) leads packets into trees of chains by address or port, whose leaves lead to a
Service's own chains. Knows nothing of Kubernetes objects, nor of the other target.
"""
