"""Egress masquerading on iptables: ranges to chains of the nat table."""
