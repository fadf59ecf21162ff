"""What the rules in the kernel say of Services: rulegen's and kube-proxy's, each by what they write beside their rules.

For those who look at live traffic. Tables, chains and elements come in, names go out. Reads no object, changes nothing.
"""
