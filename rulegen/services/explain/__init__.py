"""What becomes of a Service or of a packet, and why: objects, ServicePorts and entries come in, explanations go out.

Explanations are plain values, `text` turns them into lines for people. Where a packet goes is `services`' word; the
entries are the target's. Nothing here reads the host or decides anything.
"""
