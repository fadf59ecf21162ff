"""The iptables driver: what iptables-save lists and what features want are the same strings; a Delta is a restore.

Features bring chains with prefixes of their own (`chains.ChainCompiler`); `driver` is the door. In a built-in chain
their rules stand in a fixed order beside those of others, which are left alone. Has never heard of a Service.
"""
