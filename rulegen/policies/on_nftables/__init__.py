"""Network policies as a table of their own in nftables: facts in, chains, sets and elements out."""
