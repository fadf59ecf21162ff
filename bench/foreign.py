"""A table of another program, with many sets, beside which a single change must not take longer."""

from __future__ import annotations

import subprocess
from pathlib import Path

import nftables

from bench.clusters import Shape
from bench.product import replaced_endpoint, spread, started, timed
from rulegen.kube.objects import EndpointSlice

SETS = 5000
_CHAIN = "\tchain service-%d { numgen random mod 2 vmap { 0 : goto endpoint, 1 : goto endpoint }; }"


def load_foreign_table(sets: int) -> None:
    """One chain with one anonymous map for each set, as kube-proxy has one for each Service."""
    chains = "\n".join(_CHAIN % number for number in range(sets))
    text = f"table ip foreign {{\n\tchain endpoint {{ accept; }}\n{chains}\n}}\n"
    subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True)


def changes_beside(shape: Shape, folder: Path, repeats: int) -> dict[str, list[float]]:
    """Seconds for one endpoint replaced, alone and beside the table; and for the same change given to libnftables."""
    proxy, manifests = started(shape, folder)
    picked = iter(spread(manifests, repeats * 4))
    library = nftables.Nftables()

    def by_text(slice_: EndpointSlice) -> None:
        text = "\n".join(map(str, proxy.take([slice_]).changes))
        status, _, message = library.cmd(text)
        assert not status, message

    samples: dict[str, list[float]] = {}
    with proxy.kernel:
        for where in ("alone", "beside"):
            if where == "beside":
                load_foreign_table(SETS)
            for way, act in (("netlink", proxy.change), ("libnftables", by_text)):
                slices = [replaced_endpoint(next(picked)) for _ in range(repeats)]
                samples[f"{way} {where}"] = timed(act, slices)
    return samples
