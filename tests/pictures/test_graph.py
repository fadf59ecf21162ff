"""rulegen graph: every Service of every scenario as explain tells of it, in each form; and what nobody can draw."""

from __future__ import annotations

import re
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result

from rulegen.cli import main
from rulegen.golden import find_scenarios, read_scenario
from rulegen.kube.manifests import load
from rulegen.pictures.dot import dot
from rulegen.pictures.graph import Graph, Kind, Node, Sketch, percent
from rulegen.pictures.mermaid import mermaid
from rulegen.pictures.services import port_graph, used_lists
from rulegen.pictures.svg import svg
from rulegen.services.explain.model import EndpointExplanation, ListExplanation, PortExplanation, ServiceExplanation
from rulegen.services.explain.service import ServiceExplainer, ServiceName
from tests.explaining import scenario_view
from tests.pictures.hostile import hostile_manifest

FOLDER = Path(__file__).parent.parent.parent / "golden"
HINTS = ("-f", "golden/topology-hints/cluster.yaml", "--node", "node-a")
SVG = "{http://www.w3.org/2000/svg}"


def run(*words: str) -> Result:
    return CliRunner().invoke(main, ["graph", *words], catch_exceptions=False)


def drawn(*words: str) -> str:
    done = run(*words)
    assert done.exit_code == 0, done.stderr
    return done.stdout


def parsed(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(text)  # noqa: S314 - ours


def error(*words: str) -> str:
    done = run(*words)
    assert (done.exit_code, done.stdout) == (2, "")
    return done.stderr.splitlines()[-1]


# ---- what is drawn is what explain says ----


@pytest.mark.parametrize("folder", find_scenarios([str(FOLDER)]), ids=lambda folder: folder.name)
def test_a_graph_leads_where_explain_says(folder: Path) -> None:
    view = scenario_view(read_scenario(folder))
    services = {
        (one.metadata.namespace, one.metadata.name): one
        for one in load([str(folder / "cluster.yaml")], BytesIO()).services
    }
    explainer = ServiceExplainer(view._replace(services=services))
    for key in services:
        explanation = explainer.explain(ServiceName(*key, ""))
        for port in explanation.ports:
            graph = port_graph(explanation, port)
            assert _shares(graph) == {
                (one.name, member.endpoint, percent(member.probability))
                for one in used_lists(port)
                for member in one.members
            }
            assert _decisions(graph) == {
                (" ".join(source.reason.split()), source.endpoints)
                for frontend in port.frontends
                if not frontend.owner
                for source in frontend.sources
            }


def _shares(graph: Graph) -> set[tuple[str, str, str]]:
    lists = {number: node.lines[0].split()[0] for number, node in enumerate(graph.nodes) if node.kind is Kind.LIST}
    return {
        (lists[edge.start], graph.nodes[edge.end].lines[0], edge.label[0].partition(",")[0])
        for edge in graph.edges
        if edge.start in lists and not edge.is_left_out and edge.label[0].partition(",")[0].endswith("%")
    }


def _decisions(graph: Graph) -> set[tuple[str, str]]:
    """What is said at each decision, and the list that it leads to."""
    found = set()
    starts = {edge.end for edge in graph.edges if graph.nodes[edge.start].kind is Kind.FRONTEND}
    for number in starts:
        said = " ".join(graph.nodes[number].lines)
        lists = [graph.nodes[edge.end].lines[0].split()[0] for edge in graph.edges if edge.start == number]
        reason = re.sub(r"^from [^:]*: (balanced|rejected|dropped|untouched) ", "", said)
        found.add((reason, "".join(lists)))
    return found


def test_who_is_left_out_and_by_which_rule() -> None:
    text = drawn("default/zonal", *HINTS, "-o", "dot")
    number = re.search(
        r'(n\d+) \[label="10.128.1.7:8080\\nzonal-x7k2p-1\\non node node-b", style="filled,dashed"', text
    )
    assert number
    dashed = [line for line in text.splitlines() if f"-> {number[1]} " in line]
    assert len(dashed) == 2
    assert all("style=dashed" in line for line in dashed)
    assert "not hinted for zone\\nzone-1 (SVC-32)" in "".join(dashed)
    assert "not local: on node\\nnode-b (SVC-20)" in "".join(dashed)


def test_of_a_thousand_endpoints_few_have_a_box_and_all_are_counted() -> None:
    names = [f"10.0.{number >> 8}.{number & 255}:80" for number in range(1000)]
    whole = ListExplanation("Cluster", "all ready endpoints (SVC-26)", 1000, 0.0, ())
    outside = [EndpointExplanation(name, "s", name, "", 1, "not ready (SVC-28)", "") for name in names]
    port = PortExplanation("a/b", "IPv4", "TCP", (), None, (whole,), tuple(outside), (), (), ())

    graph = port_graph(ServiceExplanation("a/b", "ClusterIP", "n", (), (), (port,), None), port)
    assert len(graph.nodes) == 32
    assert graph.nodes[-1].lines == ("970 more, left out",)
    assert graph.edges[-1].label == ("not ready (SVC-28)",)


# ---- forms ----


def test_the_same_graph_is_drawn_in_each_form() -> None:
    texts = {form: drawn("default/zonal", *HINTS, "-o", form) for form in ("svg", "dot", "mermaid")}
    root = parsed(texts["svg"])
    boxes = [group for group in root.iter(f"{SVG}g") if "edge" not in group.attrib["class"].split()]
    ends = re.findall(r"^  (n\d+ -> n\d+)", texts["dot"], re.MULTILINE)
    assert len(boxes) == len(re.findall(r"^  n\d+ \[label", texts["dot"], re.MULTILINE))
    assert len(boxes) == len(re.findall(r"^  n\d+\[", texts["mermaid"], re.MULTILINE)) == 11
    assert re.sub(r" (-->|-\.->)(\|.*?\|)? ", " -> ", texts["mermaid"]).count(" -> ") == len(ends)
    assert len([group for group in root.iter(f"{SVG}g") if "edge" in group.attrib["class"].split()]) == len(ends)
    assert texts == {form: drawn("default/zonal", *HINTS, "-o", form) for form in texts}


def test_boxes_do_not_cover_each_other_and_stand_inside() -> None:
    root = parsed(drawn("-n", "default", *HINTS))
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    boxes = []
    for group in root.iter(f"{SVG}g"):
        if "edge" not in group.attrib["class"].split():
            rect = group.find(f"{SVG}rect")
            assert rect is not None
            left, top, wide, high = (float(rect.attrib[name]) for name in ("x", "y", "width", "height"))
            boxes.append((left, top, left + wide, top + high))
    assert len(boxes) > 15
    assert all(left >= 0 and top >= 0 and right <= width and low <= height for left, top, right, low in boxes)
    for number, (left, top, right, low) in enumerate(boxes):
        for other in boxes[number + 1 :]:
            assert left >= other[2] or other[0] >= right or top >= other[3] or other[1] >= low


def test_names_are_text_in_each_form(tmp_path: Path) -> None:
    words = ("default/web", "-f", str(hostile_manifest(tmp_path)), "--node", "node-a", "-o")
    root = parsed(drawn(*words, "svg"))
    assert {element.tag.removeprefix(SVG) for element in root.iter()} == {
        "svg", "title", "style", "g", "rect", "path", "polygon", "text",
    }  # fmt: skip
    assert "<script>owned=1" in "".join(root.itertext())
    # Outside of strings there is nothing that a name could have brought.
    text = drawn(*words, "dot")
    bare = re.sub(r'"(?:[^"\\]|\\.)*"', '""', text)
    assert not re.search(r"[^\w\s\[\]{}=,;>\"-]", bare), bare
    assert "owned" not in bare
    flow = drawn(*words, "mermaid").split("---\n", 2)[2]
    for line in flow.splitlines():
        for label in re.findall(r'"([^"]*)"', line):
            assert re.fullmatch(r"(?:[\w .,:/+%()\[\]-]|#\d+;|<br>)*", label), label
        assert "owned" not in re.sub(r'"[^"]*"', "", line)
    for form in ("svg", "dot", "mermaid"):
        assert all(sign.isprintable() or sign == "\n" for sign in drawn(*words, form))


def test_a_packet() -> None:
    text = drawn(*HINTS, "--from", "203.0.113.9", "--to", "10.96.0.20:81", "-o", "mermaid")
    assert "untouched" in text or "rejected" in text
    assert "classDef reason" in text
    text = drawn(*HINTS, "--to", "default/zonal", "-o", "mermaid")
    assert re.search(r'n2 -->\|"50 %"\| n\d+', text)
    text = drawn(
        *HINTS, "--from", "203.0.113.9", "--to", "198.51.100.99:30080", "--address", "198.51.100.99", "-o", "dot"
    )
    assert "NodePort" in text
    assert "--address: expected an IP address" in error(*HINTS, "--to", "default/zonal", "--address", "here")


def test_a_namespace_has_an_endpoint_of_two_services_once(tmp_path: Path) -> None:
    path = tmp_path / "two.yaml"
    text = Path("golden/clusterip/cluster.yaml").read_text()
    path.write_text(text)
    graph = drawn("-n", "default", "-f", str(path), "--node", "node-a", "-o", "dot")
    addresses = re.findall(r'label="(10\.128\.[\d.]+:\d+)', graph)
    assert len(addresses) == len(set(addresses)) > 1


def test_the_picture_in_the_documentation_is_drawn_so() -> None:
    assert (FOLDER.parent / "docs" / "graph.svg").read_text() == drawn("default/zonal", *HINTS)


# ---- what cannot be ----


def test_mistakes() -> None:
    assert "name a Service" in error(*HINTS)
    assert "name a Service" in error("default/web", "-n", "default", *HINTS)
    assert "--to" in error("default/zonal", "--from", "10.0.0.1", *HINTS)
    assert '-n: no Service is in namespace "nowhere"; there is default' in error("-n", "nowhere", *HINTS)
    assert "no Service default/zonl; there is default/zonal" in error("default/zonl", *HINTS)


def test_too_large_to_be_drawn() -> None:
    sketch = Sketch()
    for number in range(601):
        sketch.put(number, Kind.ENDPOINT, str(number))
    with pytest.raises(Exception, match="601 boxes, 600 at most"):
        svg(sketch.graph("many"))
    assert dot(sketch.graph("many")).count("label=") == 602
    assert mermaid(sketch.graph("many")).count(":::endpoint") == 601


def test_the_largest_that_is_drawn_may_be_one_long_way() -> None:
    sketch = Sketch()
    for number in range(599):
        start, end = (sketch.put(place, Kind.LIST, str(place)) for place in (number, number + 1))
        sketch.connect(start, end, "on")
    assert svg(sketch.graph("a chain")).count("<rect") == 600 + 599


def test_without_the_engine_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "quickjs", None)
    assert "pip install 'rulegen[pictures]'" in error("default/zonal", *HINTS)
    assert drawn("default/zonal", *HINTS, "-o", "dot").startswith("digraph {")


def test_nothing_to_draw_is_drawn() -> None:
    assert parsed(svg(Graph("empty", (), ()))).attrib["role"] == "img"
    alone = svg(Graph("one", (Node(Kind.REFUSED, ("nothing",)),), ()))
    assert "nothing" in alone


def test_a_terminal_of_any_encoding_gets_utf8() -> None:
    command = [str(Path(sys.executable).parent / "rulegen"), "graph", "default/zonal", *HINTS, "-o", "dot"]
    environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, check=False, env=environment)
    assert (done.returncode, done.stderr) == (0, b"")
