"""What rulegen does to connection tracking: UDP flows that lead nowhere any more end, sysctls are as configured.

ServicePorts come in; entries of the kernel's table go (SVC-72 to SVC-76, D5). Knows no target: what an entry should
look like follows from the ServicePorts alone, whichever rules made it.
"""
