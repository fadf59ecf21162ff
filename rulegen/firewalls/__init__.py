"""Chains of other programs that would drop what Services need: firewalls of the host, Docker, others.

In: the chains with a hook of all nf_tables tables, and what iptables-legacy-save prints where that is loaded. Out:
`Obstacle`s, each with the chain and why. Reads chains and their rules, no set of anybody, and changes nothing. A chain
is named when it drops by its policy or by a rule for every packet, and no rule before that accepts all connections
that were translated, which those to Services are. What a rule with conditions does is not guessed at.
"""
