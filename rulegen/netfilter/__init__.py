"""What rules of netfilter do to packets: rules as the kernel or iptables-save says them come in, outcomes go out.

It knows no Service, and shares no code with the compilers whose rules it judges. It follows *sets* of packets
(`regions`), which every rule and lookup splits into those that match and those that do not, so that parts that many
packets share are walked once. What it does not know it names, with table, chain and rule; it never guesses.
"""
