// From a graph, as rulegen/pictures/svg.py writes it, to an SVG: as elements for a page, as text for a file. Where boxes
// stand is dagre's decision. Runs in browsers and in an engine without a page. Never parses text as markup.
"use strict";
const drawing = (() => {
  // Of the font that drawing.css names; what a browser has may be a little narrower, never wider.
  const CHARACTER = 7.3, LINE = 16, PADDING = 8, SMALL = 0.92;
  const TIP = 7;

  // Signs of East Asian scripts, and pictures, are two columns wide.
  const columns = (text) => {
    let count = 0;
    for (const sign of text) {
      const code = sign.codePointAt(0);
      count += (code >= 0x1100 && code < 0x1160) || (code >= 0x2e80 && code < 0xfb00) || code >= 0xfe30 ? 2 : 1;
    }
    return count;
  };

  const size = (lines, scale = 1) => ({
    width: Math.ceil(Math.max(0, ...lines.map(columns)) * CHARACTER * scale) + 2 * PADDING,
    height: lines.length * LINE + PADDING,
  });

  const round = (number) => Math.round(number * 10) / 10;

  const texts = (lines, x, top) =>
    lines.map((line, index) => [
      "text",
      { x: round(x), y: round(top + (index + 1) * LINE - 3), class: index ? "more" : "name" },
      [line],
    ]);

  // [name, attributes, children]; a child is the same, or text.
  const draw = ([title, nodes, edges]) => {
    const graph = new dagre.Graph({ multigraph: true });
    graph.setGraph({ rankdir: "LR", nodesep: 14, ranksep: 30, edgesep: 8, marginx: 12, marginy: 12 });
    nodes.forEach(([, lines], index) => graph.setNode(String(index), size(lines)));
    edges.forEach(([start, end, label], index) => {
      const box = label.length ? { ...size(label, SMALL), labelpos: "c" } : { width: 0, height: 0 };
      graph.setEdge(String(start), String(end), box, String(index));
    });
    dagre.layout(graph);
    const { width, height } = graph.graph();
    const around = { width: Math.ceil(Math.max(1, width || 0)), height: Math.ceil(Math.max(1, height || 0)) };
    return [
      "svg",
      {
        class: "drawing",
        xmlns: "http://www.w3.org/2000/svg",
        ...around,
        viewBox: `0 0 ${around.width} ${around.height}`,
        role: "img",
        "aria-label": title,
      },
      [
        ["title", {}, [title]],
        ...edges.map(([start, end, label, isLeftOut], index) =>
          edge(graph.edge(String(start), String(end), String(index)), label, isLeftOut)),
        ...nodes.map(([kind, lines], index) => node(graph.node(String(index)), kind, lines)),
      ],
    ];
  };

  const node = ({ x, y, width, height }, kind, lines) => {
    const left = x - width / 2, top = y - height / 2;
    const box = { x: round(left), y: round(top), width: round(width), height: round(height), rx: 4 };
    return ["g", { class: kind }, [["rect", box, []], ...texts(lines, left + PADDING, top + PADDING / 2 - 1)]];
  };

  const edge = ({ points, x, y, width, height }, label, isLeftOut) => {
    const last = points[points.length - 1], before = points[points.length - 2];
    const angle = Math.atan2(last.y - before.y, last.x - before.x);
    const back = (distance, turn) =>
      `${round(last.x - distance * Math.cos(angle + turn))},${round(last.y - distance * Math.sin(angle + turn))}`;
    const tip = `${round(last.x)},${round(last.y)} ${back(TIP, 0.45)} ${back(TIP, -0.45)}`;
    const parts = [["path", { d: curve(points) }, []], ["polygon", { points: tip }, []]];
    if (label.length) {
      const left = x - width / 2, top = y - height / 2;
      parts.push(["rect", { x: round(left), y: round(top), width: round(width), height: round(height) }, []]);
      parts.push(...texts(label, left + PADDING, top + PADDING / 2 - 1).map(([name, attributes, text]) =>
        [name, { ...attributes, class: "label" }, text]));
    }
    return ["g", { class: isLeftOut ? "edge left-out" : "edge" }, parts];
  };

  // Through the middles of what lies between the points, so that there are no corners.
  const curve = (points) => {
    const at = ({ x, y }) => `${round(x)},${round(y)}`;
    const middle = (one, other) => ({ x: (one.x + other.x) / 2, y: (one.y + other.y) / 2 });
    let path = `M${at(points[0])}`;
    for (let index = 1; index < points.length - 1; index += 1) {
      const end = index === points.length - 2 ? points[index + 1] : middle(points[index], points[index + 1]);
      path += ` Q${at(points[index])} ${at(end)}`;
    }
    return points.length < 3 ? `${path} L${at(points[points.length - 1])}` : path;
  };

  const ENTITIES = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };
  const escaped = (text) => String(text).replace(/[&<>"']/g, (sign) => ENTITIES[sign]);

  const elementText = (element) => {
    if (typeof element === "string") return escaped(element);
    const [name, attributes, children] = element;
    const written = Object.entries(attributes).map(([key, value]) => ` ${key}="${escaped(value)}"`).join("");
    return children.length ? `<${name}${written}>${children.map(elementText).join("")}</${name}>` : `<${name}${written}/>`;
  };

  // A file of its own, with its style inside.
  const toText = ([name, attributes, children], style) =>
    `${elementText([name, attributes, [["style", {}, [style]], ...children]])}\n`;

  const toElement = (element) => {
    if (typeof element === "string") return document.createTextNode(element);
    const [name, attributes, children] = element;
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) if (key !== "xmlns") made.setAttribute(key, value);
    made.append(...children.map(toElement));
    return made;
  };

  return { draw, toText, toElement };
})();
