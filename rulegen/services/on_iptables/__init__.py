"""Services on iptables: service-ports become chains of rules, and the trees of chains that lead to them."""
