"""Services on iptables: service-ports become chains of rules, and the trees of chains that lead to them.

A fixed part (`templates/iptables/`) leads packets into trees of chains by address or port, whose leaves lead to a
Service's own chains. Knows nothing of Kubernetes objects, nor of nftables.
"""
