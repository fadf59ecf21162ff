"""`rulegen verify`: whether rules do what the compiled service-ports say, for every packet.

In: service-ports and rules, or two rulesets. Out: how many classes of packets are equal, and each difference with its
simplest packet. It applies nothing.
"""
