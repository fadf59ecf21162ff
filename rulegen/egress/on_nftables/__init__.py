"""Egress masquerading on nftables: ranges to elements of one table for each family."""
