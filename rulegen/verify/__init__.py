"""`rulegen verify`: whether rules do what service-ports, policies and egress ranges say, for every packet.

In: what features have compiled and rules, or two rulesets. Out: how many classes of packets are equal, and
each difference with its simplest packet. It applies nothing.
"""
