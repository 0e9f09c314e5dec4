// What the memory of a process consists of: bars of pages by kind, of all of it and by name of the mapping.

const NAMES_SHOWN = 12;
const PAGE_KINDS = [
    ["data", "stored in this round"],
    ["parent", "in an earlier round"],
    ["zero", "all zeros, not stored"],
];

/** Names with the pages of all regions of that name, the largest first. */
function sizesByName(process) {
    const found = new Map();
    for (const region of process.regions) {
        const sum = found.get(region.name) || {
            name: region.name,
            n: 0,
            data: 0,
            parent: 0,
            zero: 0,
            absent: 0,
            stored: 0,
        };
        found.set(region.name, sum);
        sum.n += 1;
        for (const key of ["data", "parent", "zero", "absent", "stored"]) sum[key] += region[key];
    }
    const size = (sum) => sum.data + sum.parent + sum.zero;
    return [...found.values()].sort((a, b) => size(b) - size(a) || b.stored - a.stored);
}

/** A bar of pages by kind, as long as they are of `most`. */
function kindBar(pages, most) {
    const bar = el("span", { class: "kinds", "aria-hidden": "true" });
    for (const [kind] of PAGE_KINDS) {
        if (!pages[kind]) continue;
        const part = el("span", { class: `kind ${kind}` });
        part.style.width = `${(100 * pages[kind]) / most}%`;
        bar.append(part);
    }
    return bar;
}

/** The section on sizes, for one process. */
function sizesView(process) {
    const all = process.pages;
    const present = all.data + all.parent + all.zero;
    const line = (look, name, size, meaning) =>
        el(
            "li",
            {},
            el("span", { class: `swatch ${look}`, "aria-hidden": "true" }),
            el("strong", {}, name),
            el("span", { class: "number" }, size),
            el("span", { class: "muted" }, meaning),
        );
    const kinds = PAGE_KINDS.map(([kind, meaning]) =>
        line(kind, kind, pagesText(all[kind]), `${percentText(all[kind], present)}, ${meaning}`),
    );
    const absent = line("absent", "absent", pagesText(all.absent), "never touched, or unchanged pages of files");
    const stored = line("", "stored", bytesText(all.stored), "compressed, in all rounds of this report");
    const legend = el("ul", { class: "legend" }, ...kinds, absent, stored);
    return el("div", { class: "sizes" }, el("div", {}, kindBar(all, present || 1), legend), namesList(process));
}

/** The largest names, one row each. */
function namesList(process) {
    const size = (sum) => sum.data + sum.parent + sum.zero;
    const names = sizesByName(process).filter((sum) => size(sum) || sum.stored);
    if (!names.length) return el("p", { class: "muted" }, "It has no pages of its own.");
    const most = Math.max(...names.map(size), 1);
    const head = (text, look) => el("th", { scope: "col", class: look }, text);
    const rows = names.slice(0, NAMES_SHOWN).map((sum) => {
        const spoken = PAGE_KINDS.map(([kind]) => `${kind} ${pagesText(sum[kind])}`).join(", ");
        const times = sum.n > 1 ? el("span", { class: "muted" }, ` ×${countText(sum.n)}`) : null;
        return el(
            "tr",
            { title: spoken },
            el("th", { scope: "row" }, el("bdi", {}, sum.name), times),
            el("td", { class: "wide" }, kindBar(sum, most)),
            el("td", { class: "number" }, pagesText(size(sum))),
            el("td", { class: "number" }, sum.stored ? bytesText(sum.stored) : "–"),
        );
    });
    const heads = [head("Mapping"), head("Pages by kind"), head("Present", "number"), head("Stored", "number")];
    const table = el("table", { class: "names" }, el("thead", {}, el("tr", {}, ...heads)), el("tbody", {}, ...rows));
    const more = names.length - rows.length;
    const note = `… and ${counted(more, "smaller name")}: see the mappings below.`;
    return el(
        "div",
        { class: "scroll", tabindex: 0, role: "region", "aria-label": "Sizes by name" },
        table,
        more > 0 ? el("p", { class: "muted" }, note) : null,
    );
}
