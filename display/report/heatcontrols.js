// What stands around the heat map: its buttons, its legend, and what its keys do.

const HEAT_KEYS = [
    ["+ −", "zoom, also with the wheel once the map has the focus, or with Ctrl"],
    ["← → ↑ ↓", "move the mark over cells and rounds"],
    ["Page Up, Page Down", "move the view"],
    ["n, p", "next or previous mapping"],
    ["Home, End", "first or last cell"],
    ["0", "everything"],
];

/** Buttons for `actions`, by name; `find` gets the field that a name or address was put into. */
function heatControls(actions) {
    const button = (text, label, action) =>
        el("button", { type: "button", "aria-label": label, title: label, on: { click: action } }, text);
    const modes = ["By round", "All rounds"].map((text, number) => {
        const on = { click: () => actions.mode(number === 1) };
        return el("button", { type: "button", "aria-pressed": String(number === 0), on }, text);
    });
    const zooms = [
        button("−", "Zoom out", actions.zoomOut),
        button("+", "Zoom in", actions.zoomIn),
        button("◂", "Move left", actions.left),
        button("▸", "Move right", actions.right),
        button("All", "Show everything", actions.all),
    ];
    const finder = el("input", {
        type: "search",
        placeholder: "Find a mapping",
        "aria-label": "Find a mapping by name or address",
        on: { keydown: (event) => event.key === "Enter" && actions.find(finder) },
    });
    const zoomText = el("span", { class: "muted number" });
    const bar = el(
        "div",
        { class: "toolbar" },
        el("span", { class: "group", role: "group", "aria-label": "What to show" }, ...modes),
        el("span", { class: "group", role: "group", "aria-label": "Zoom" }, ...zooms),
        zoomText,
        el("span", { class: "spring" }),
        finder,
    );
    return { bar, modes, zoomText };
}

/** What the colours of a map mean. */
function heatLegend(model) {
    const key = (look, text) => el("span", {}, el("span", { class: `swatch ${look}`, "aria-hidden": "true" }), text);
    const scale = el("span", { class: "ramp", "aria-hidden": "true" });
    const hasGone = model.segments.some(({ region }) => region.gone);
    return el(
        "p",
        { class: "legend-line muted" },
        key("none", "not written"),
        el("span", {}, "few pages written", scale, "all pages"),
        key("seen", "seen for the first time"),
        hasGone ? key("gone", "unmapped since") : null,
    );
}

/** The keys of a map, to unfold. */
function heatKeys() {
    const list = HEAT_KEYS.flatMap(([key, meaning]) => [el("dt", {}, key), el("dd", {}, meaning)]);
    return el("details", { class: "help" }, el("summary", {}, "Keys"), el("dl", {}, ...list));
}
