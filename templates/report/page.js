// The report's page: a table of Services from the data in the page, and drawings of those that are opened. What comes
// from a cluster is put in as text, never as markup. Records are as rulegen/pictures/records.py writes them.
"use strict";
(async () => {
  const unpack = async (packed) => {
    const bytes = Uint8Array.from(atob(packed), (sign) => sign.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return JSON.parse(await new Response(stream).text());
  };
  const written = document.getElementById("data").textContent;
  const data = written.startsWith("{") ? JSON.parse(written) : await unpack(written);
  const text = (number) => data.strings[number];
  const texts = (numbers) => numbers.map(text);
  const PAGE = 100;
  const SHOWN = 3;
  const DRAWN = 8;
  const LEAST_WIDTH = 960;
  const isLive = data.differences !== null;

  // ---- records, by name ----

  const portOf = ([name, protocol, family, affinity, frontends, lists, endpoints, more, usable, draining, notes]) =>
    ({ name, protocol, family, affinity, frontends, lists, endpoints, more, usable, draining, notes });
  const services = data.services.map(([name, type, facts, findings, ports, health, differences, moreDifferences], index) => {
    const read = ports.map(portOf);
    const sum = (count) => read.reduce((total, port) => total + count(port), 0);
    return {
      index, name: text(name), type: text(type), facts, findings, ports: read, health, differences,
      differing: differences.length + moreDifferences,
      listed: sum((port) => port.endpoints.length + port.more),
      usable: sum((port) => port.usable),
      // Its place is behind the others', and it is there only where the kernel was asked.
      connections: sum((port) => port.endpoints.reduce((total, endpoint) => total + (endpoint[5] || 0), 0)),
    };
  });
  const isUnserved = (service) => service.ports.some((port) => port.frontends.length && !port.usable);

  // ---- elements ----

  const make = (name, attributes = {}, ...children) => {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      if (value === true) element.setAttribute(key, "");
      else if (value !== false && value !== undefined) element.setAttribute(key, value);
    }
    element.append(...children.flat());
    return element;
  };
  const plural = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;
  const lines = (items, className) => {
    const shown = items.slice(0, SHOWN).map((item) => make("div", { class: className }, item));
    if (items.length > SHOWN) shown.push(make("div", { class: "faint" }, `and ${items.length - SHOWN} more`));
    return shown;
  };
  const distinct = (items) => [...new Set(items)];
  const table = (head, rows) =>
    make("div", { class: "scroll", tabindex: "0" },
      make("table", {},
        make("thead", {}, make("tr", {}, head.map((title) => make("th", { scope: "col" }, title)))),
        make("tbody", {}, rows.map((row) => make("tr", {}, row.map((cell) => make("td", {}, cell)))))));

  // ---- the table ----

  const frontendsOf = (service) =>
    distinct(service.ports.flatMap((port) =>
      port.frontends.filter((one) => !one[4]).map((one) => `${text(one[0])} ${text(one[1])}`)));
  const sharesOf = (service) =>
    service.ports.flatMap((port) =>
      port.endpoints.slice(0, port.usable).map((endpoint) => {
        const places = texts(endpoint[4]).map((place, index) =>
          port.lists.length > 1 ? `${text(port.lists[index][0])} ${place}` : place);
        return `${text(endpoint[0])} ${places.filter((place) => place.endsWith(" %")).join(", ")}`;
      }));
  const policiesOf = (service) => {
    const said = new Set();
    for (const port of service.ports) {
      for (const frontend of port.frontends) {
        said.add(`${text(frontend[0]) === "ClusterIP" ? "internal" : "external"} ${text(frontend[2])}`);
        if (frontend[5] !== null) said.add("source ranges");
      }
      for (const endpoint of port.endpoints) {
        for (const policy of texts(endpoint[6] || [])) said.add(policy);
      }
      if (port.affinity) said.add(`affinity ${port.affinity} s`);
    }
    return [...said];
  };

  const COLUMNS = [
    { title: "Service", value: (one) => one.name, order: (one) => one.name },
    { title: "Type", cell: (one) => [one.type], order: (one) => one.type },
    { title: "Frontends", cell: (one) => lines(frontendsOf(one), "address") },
    {
      title: "Endpoints", order: (one) => one.usable,
      cell: (one) => [
        make("div", { class: isUnserved(one) ? "bad" : undefined }, `${one.usable} of ${one.listed}`),
        ...lines(sharesOf(one), "address"),
      ],
    },
    { title: "Policies", cell: (one) => lines(policiesOf(one)) },
    { title: "Health", cell: (one) => lines(texts(one.health)) },
    {
      title: "Findings", order: (one) => one.findings.length,
      cell: (one) => lines(distinct(one.findings.map((finding) => text(finding[1]))), "bad"),
    },
    ...(isLive ? [
      {
        title: "Kernel", order: (one) => one.differing,
        cell: (one) => [one.differing ? make("span", { class: "bad" }, `${one.differing} differ`) : "agrees"],
      },
    ] : []),
    ...(data.connections ? [
      {
        title: "Connections", order: (one) => one.connections,
        cell: (one) => [one.connections ? one.connections.toLocaleString("en") : ""],
      },
    ] : []),
  ];
  const FILTERS = [
    ["all", () => true],
    ["with findings", (one) => one.findings.length > 0],
    ["frontends without an endpoint", isUnserved],
    ["with endpoints left out", (one) => one.usable < one.listed],
    ...(isLive ? [
      ["that differ in the kernel", (one) => one.differing > 0],
    ] : []),
    ...(data.connections ? [
      ["with connections", (one) => one.connections > 0],
    ] : []),
  ];

  const search = document.getElementById("search");
  const filter = document.getElementById("filter");
  const rows = document.getElementById("rows");
  const more = document.getElementById("more");
  const state = { found: services, shown: 0, column: 0, isDown: false };

  // All that can be seen of a Service, made when something is searched for.
  const hay = (service) => {
    service.hay ??= [
      service.name, service.type, ...texts(service.facts), ...texts(service.health),
      ...service.findings.flatMap((finding) => texts(finding)),
      ...service.ports.flatMap((port) => [
        text(port.name), text(port.protocol),
        ...port.frontends.flatMap((one) => [text(one[0]), text(one[1]), ...texts(one[5] || [])]),
        ...port.endpoints.flatMap((one) => [text(one[0]), text(one[1]), text(one[2]), ...texts(one[4]), ...texts(one[6] || [])]),
      ]),
    ].join("\n").toLowerCase();
    return service.hay;
  };

  const find = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const [, isMeant] = FILTERS[filter.selectedIndex] || FILTERS[0];
    state.found = services.filter((one) => isMeant(one) && words.every((word) => hay(one).includes(word)));
    const order = COLUMNS[state.column].order, sign = state.isDown ? -1 : 1;
    if (state.column || state.isDown) {
      const by = (one, other) => (order(one) < order(other) ? -1 : order(one) > order(other) ? 1 : 0);
      state.found.sort((one, other) => sign * by(one, other));
    }
    rows.replaceChildren();
    state.shown = 0;
    show();
    document.getElementById("count").textContent =
      state.found.length === services.length ? plural(services.length, "Service")
        : `${state.found.length.toLocaleString("en")} of ${plural(services.length, "Service")}`;
  };

  const show = () => {
    const next = state.found.slice(state.shown, state.shown + PAGE);
    rows.append(...next.map(row));
    state.shown += next.length;
    const left = state.found.length - state.shown;
    more.hidden = !left;
    more.textContent = `Show ${Math.min(PAGE, left)} more of ${left.toLocaleString("en")}`;
  };

  const row = (service) => {
    const button = make("button", { type: "button", "aria-expanded": "false" }, service.name);
    button.addEventListener("click", () => toggle(button, service));
    const cells = COLUMNS.map((column) =>
      make("td", { "data-label": column.value ? undefined : column.title }, column.value ? button : column.cell(service)));
    return make("tr", { class: "service" }, cells);
  };

  const toggle = (button, service) => {
    const line = button.closest("tr");
    const isOpen = button.getAttribute("aria-expanded") === "true";
    button.setAttribute("aria-expanded", String(!isOpen));
    if (isOpen) {
      line.nextElementSibling.remove();
      return;
    }
    const cell = make("td", { class: "detail", colspan: String(COLUMNS.length) });
    line.after(make("tr", {}, cell));
    cell.append(...detail(service));
  };

  // ---- one Service ----

  // Those of some Services are packed together, and unpacked when one of them is opened for the first time.
  const unpacked = new Map();
  const graphsOf = async (service) => {
    const place = Math.floor(service.index / data.together);
    if (!unpacked.has(place)) unpacked.set(place, unpack(data.graphs[place]));
    return (await unpacked.get(place))[service.index % data.together];
  };

  const detail = (service) => {
    const parts = [];
    if (service.facts.length) parts.push(make("ul", {}, texts(service.facts).map((fact) => make("li", {}, fact))));
    if (service.findings.length) {
      parts.push(make("h3", {}, "Findings"), make("ul", {}, service.findings.map((finding) =>
        make("li", { class: "bad" }, `${text(finding[0])}: ${text(finding[1])}: ${text(finding[2])}`))));
    }
    if (service.differing) {
      parts.push(make("h3", {}, "What apply would change in the kernel"), differences(texts(service.differences),
        service.differing - service.differences.length));
    }
    const told = service.ports.map((port, index) => () => portDetail(service, port, index));
    told.slice(0, DRAWN).forEach((tell) => parts.push(...tell()));
    const rest = told.slice(DRAWN);
    if (rest.length) {
      const button = make("button", { type: "button" }, `Show ${plural(rest.length, "more port")}`);
      button.addEventListener("click", () => button.replaceWith(...rest.flatMap((tell) => tell())));
      parts.push(button);
    }
    return parts;
  };

  const differences = (items, left) =>
    make("pre", {}, make("code", {}, [...items, ...(left ? [`and ${left} more`] : [])].join("\n")));

  const portDetail = (service, port, index) => {
    const title = `${text(port.name)} ${text(port.protocol)}, ${text(port.family)}`;
    const parts = [make("h3", {}, title), picture(service, title, index)];
    const affinity = port.affinity ? [`session affinity: ${port.affinity} s`] : [];
    const notes = [...affinity, ...texts(port.notes), ...texts(port.draining).map((one) => `draining: ${one}`)];
    if (notes.length) parts.push(make("ul", {}, notes.map((note) => make("li", {}, note))));
    parts.push(table(["Frontend", "Policy", "Verdict", "Source ranges"], port.frontends.map((one) => [
      `${text(one[0])} ${text(one[1])}`,
      text(one[2]),
      one[4] ? `belongs to ${text(one[4])}` : text(one[3]),
      one[5] === null ? "all" : texts(one[5]).join(", ") || "none",
    ])));
    if (port.endpoints.length) {
      const head = ["Endpoint", "Of", "Node", "Weight", ...port.lists.map((list) => `${text(list[0])} list`)];
      const isIsolated = port.endpoints.some((one) => one[6]);
      const titles = [...head, ...(data.connections ? ["Connections"] : []), ...(isIsolated ? ["Network policies"] : [])];
      parts.push(table(titles, port.endpoints.map((one) => [
        text(one[0]), text(one[1]), text(one[2]), String(one[3]), ...texts(one[4]),
        ...(data.connections ? [String(one[5] || 0)] : []),
        ...(isIsolated ? [texts(one[6] || []).join(", ")] : []),
      ])));
    }
    if (port.more) parts.push(make("p", { class: "faint" }, `and ${plural(port.more, "more endpoint")}`));
    return parts;
  };

  const picture = (service, title, index) => {
    const around = make("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": `Drawing of ${title}` });
    graphsOf(service).then((graphs) => draw(around, title, graphs[index]), (error) => {
      around.append(make("p", { class: "bad" }, `The drawing cannot be made here: ${error.message}`));
    });
    return around;
  };

  const draw = (around, title, [nodes, edges]) => {
    const graph = [
      title,
      nodes.map(([kind, ...numbers]) => [data.kinds[kind], texts(numbers)]),
      edges.map(([start, end, isLeftOut, ...numbers]) => [start, end, texts(numbers), isLeftOut]),
    ];
    const drawn = drawing.toElement(drawing.draw(graph));
    // Made smaller for its place, but not so small that nobody can read it.
    drawn.style.minWidth = `${Math.min(LEAST_WIDTH, drawn.getAttribute("width"))}px`;
    around.append(drawn);
  };

  // ---- keys, and what stands above the table ----

  const buttons = () => [...rows.querySelectorAll("tr.service button")];
  const move = (by) => {
    const all = buttons(), now = all.indexOf(document.activeElement);
    if (by > 0 && now === all.length - 1 && !more.hidden) {
      show();
      return move(by);
    }
    const next = all[now < 0 ? 0 : now + by];
    if (next) next.focus();
    else if (by < 0) search.focus();
  };
  document.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const isOnService = document.activeElement.matches("tr.service button");
    if (event.key === "/" && !document.activeElement.matches("input, select")) search.focus();
    else if (event.key === "ArrowDown" && (isOnService || document.activeElement === search)) move(1);
    else if (event.key === "ArrowUp" && isOnService) move(-1);
    else if (event.key === "Escape") close();
    else return;
    event.preventDefault();
  });
  const close = () => {
    const open = document.activeElement.closest("#rows > tr")?.previousElementSibling?.querySelector("button[aria-expanded=true]");
    const button = document.activeElement.matches("tr.service button[aria-expanded=true]") ? document.activeElement : open;
    if (button) {
      button.click();
      button.focus();
    } else if (document.activeElement === search) {
      search.value = "";
      find();
    }
  };

  const columns = document.getElementById("columns");
  columns.append(...COLUMNS.map((column, index) => {
    if (!column.order) return make("th", { scope: "col" }, column.title);
    const button = make("button", { type: "button" }, column.title);
    const head = make("th", { scope: "col", "aria-sort": index ? undefined : "ascending" }, button);
    button.addEventListener("click", () => {
      // What is counted is looked at from its largest.
      state.isDown = state.column === index ? !state.isDown : isCounted(column);
      state.column = index;
      columns.querySelectorAll("th").forEach((one) => one.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", state.isDown ? "descending" : "ascending");
      find();
    });
    return head;
  }));
  const isCounted = (column) => services.length > 0 && typeof column.order(services[0]) === "number";

  document.getElementById("about").textContent =
    `Node ${data.node}, ${data.target}, ${plural(services.length, "Service")}; rulegen ${data.version}`;
  const node = document.getElementById("node");
  if (data.findings.length) {
    node.append(make("h2", {}, "Findings that are of no Service"),
      make("ul", {}, data.findings.map((finding) => make("li", { class: "bad" }, finding))));
  }
  if (isLive) {
    const differing = services.filter((one) => one.differing).length;
    const others = data.differences.length + data.moreDifferences;
    const said = [
      ...(differing ? [`in ${plural(differing, "Service")}`] : []),
      ...(others ? [`in ${others.toLocaleString("en")} ${others === 1 ? "entry" : "entries"} of none`] : []),
    ];
    node.append(make("h2", {}, "The kernel"), make("p", { class: said.length ? "bad" : "good" }, said.length
      ? `differs ${said.join(" and ")} from what it should hold`
      : "holds exactly what it should"));
    if (data.differences.length) node.append(differences(data.differences, data.moreDifferences));
  }
  node.hidden = !node.children.length;
  filter.append(...FILTERS.map(([title]) => make("option", {}, title)));
  search.addEventListener("input", find);
  filter.addEventListener("change", find);
  more.addEventListener("click", () => {
    const first = state.shown;
    show();
    buttons()[first]?.focus();
  });
  find();

  // A link to one Service: report.html#default/web.
  const follow = () => {
    let name;
    try {
      name = decodeURIComponent(location.hash.slice(1));
    } catch {
      return;
    }
    if (!services.some((one) => one.name === name)) return;
    search.value = name;
    filter.selectedIndex = 0;
    find();
    const button = buttons().find((one) => one.textContent === name);
    if (button && button.getAttribute("aria-expanded") === "false") button.click();
    button?.focus();
  };
  addEventListener("hashchange", follow);
  follow();
  document.body.dataset.ready = "";
})();
