"""Explanations come in, pictures of them go out: graphs, as SVG, DOT and Mermaid, and the page of the report.

`services` and `packets` say what is drawn, once for every form. Where things stand is dagre's decision, a layout
library in JavaScript, which browsers run in the page and `svg` in an engine of its own. Nothing here reads the cluster
or the kernel.
"""
