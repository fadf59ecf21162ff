"""Who is connected to which Service and endpoint, now: names and conntrack's entries come in, counts go out.

What there is is listed once; from then on the kernel tells what comes and goes. Changes nothing, neither rules nor
connections nor sysctls.
"""
