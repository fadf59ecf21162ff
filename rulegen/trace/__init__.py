"""What becomes of real packets: a filter comes in, and of each packet that it lets through the kernel's own account.

A small table marks the packets, and the kernel tells by which rules they come. Knows how rulegen's, kube-proxy's and
others' tables are read; decides nothing about packets, changes no rule of anybody, and leaves nothing behind.
"""
