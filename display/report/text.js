// Numbers as people read them, and elements of the page. Text from images goes into text nodes and nowhere else.

const PAGE_BYTES = 4096;
const BINARY_UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

/** Bytes in the largest unit that leaves at least 1: "1.5 GiB". */
function bytesText(bytes) {
    let value = bytes;
    let unit = 0;
    while (Math.abs(value) >= 1024 && unit < BINARY_UNITS.length - 1) {
        value /= 1024;
        unit += 1;
    }
    return unit ? `${value.toFixed(1)} ${BINARY_UNITS[unit]}` : `${value} B`;
}

/** The memory of so many pages. */
function pagesText(pages) {
    return bytesText(pages * PAGE_BYTES);
}

/** The same in a table, where nothing is a dash. */
function pagesCell(pages) {
    return pages ? pagesText(pages) : "–";
}

/** Nanoseconds in µs, ms, s or minutes. */
function durationText(ns) {
    const size = Math.abs(ns);
    if (size < 1e6) return `${trimmed(ns / 1e3, 0)} µs`;
    if (size < 1e9) return `${trimmed(ns / 1e6, 1)} ms`;
    return size < 12e10 ? `${trimmed(ns / 1e9, 2)} s` : `${trimmed(ns / 6e10, 1)} min`;
}

/** A number with so many decimals. */
function trimmed(value, decimals) {
    return value.toFixed(decimals);
}

/** "12,345". */
function countText(number) {
    return Math.round(number).toLocaleString("en-US");
}

/** "1 round", "2 rounds". */
function counted(number, one, many) {
    return `${countText(number)} ${number === 1 ? one : many || `${one}s`}`;
}

/** A part of a whole, "<1 %" for little. */
function percentText(part, whole) {
    const percent = whole ? (100 * part) / whole : 0;
    return percent > 0 && percent < 1 ? "<1 %" : `${Math.round(percent)} %`;
}

/** Address of a page, which is given by its number: addresses have more bits than numbers here are exact for. */
function addressText(page) {
    return page ? `0x${page.toString(16)}000` : "0x0";
}

/**
 * An element with attributes and children (elements or text). `on` are listeners by event; `class` is the class.
 * There is no way to give it markup.
 */
function el(name, attributes = {}, ...children) {
    return filled(document.createElement(name), attributes, children);
}

/** The same for drawings. */
function svg(name, attributes = {}, ...children) {
    return filled(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

function filled(element, { on = {}, ...attributes }, children) {
    for (const [name, value] of Object.entries(attributes)) {
        if (value === true) element.setAttribute(name, "");
        else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, String(value));
    }
    for (const [event, listener] of Object.entries(on)) element.addEventListener(event, listener);
    element.append(...children.filter((child) => child !== null && child !== undefined));
    return element;
}

/** The element of the page with this id, with these children instead of those that it had. */
function fill(id, ...children) {
    const place = document.getElementById(id);
    place.replaceChildren(...children.filter((child) => child !== null));
    return place;
}

/** A labelled choice of one of `options` (texts); `chosen` is called with the position of the new one. */
function chooser(label, options, selected, chosen) {
    const select = el("select", { on: { change: () => chosen(select.selectedIndex) } });
    select.append(...options.map((text, position) => el("option", { value: position }, text)));
    select.selectedIndex = selected;
    return el("label", { class: "chooser" }, el("span", {}, label), select);
}
