// Tables that are sorted by a press on a heading, filtered by text, and shown a part at a time.

const ROWS_AT_ONCE = 50;

class SortedTable {
    /**
     * Columns have a `name`, `value(row)` to sort by, and, if it differs, `text(row)` to show (with `element`, that is
     * one). `number` aligns right, `code` is for addresses, `wide` breaks lines, `clipped` cuts, `title` explains.
     * `rows` may be many; where they are not all that there are, there are `total`.
     */
    constructor(name, columns, rows, total = rows.length) {
        this.name = name;
        this.total = total;
        this.columns = columns;
        this.rows = rows;
        this.shown = rows;
        this.first = 0;
        this.sorted = { column: -1, falls: false };
        this.element = this._built();
        this._fill();
    }

    _built() {
        this.heads = this.columns.map((column, number) => {
            const press = el(
                "button",
                { type: "button", title: column.title, on: { click: () => this._sort(number) } },
                column.name,
            );
            return el("th", { scope: "col", class: column.number ? "number" : null, "aria-sort": "none" }, press);
        });
        this.body = el("tbody");
        this.status = el("span", { class: "muted", role: "status" });
        const turn = (text, label, step) =>
            el("button", { type: "button", "aria-label": label, on: { click: () => this._turn(step) } }, text);
        this.turns = [turn("◂", "Previous rows", -1), turn("▸", "Next rows", 1)];
        this.filter = el("input", {
            type: "search",
            placeholder: "Filter",
            "aria-label": `Filter ${this.name}`,
            on: { input: () => this._filtered() },
        });
        const table = el(
            "table",
            {},
            el("caption", { class: "hidden" }, this.name),
            el("thead", {}, el("tr", {}, ...this.heads)),
            this.body,
        );
        return el(
            "div",
            { class: "sorted" },
            el("div", { class: "toolbar" }, this.filter, el("span", { class: "group" }, ...this.turns), this.status),
            el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": this.name }, table),
        );
    }

    /** Numbers fall at the first press, texts rise; the next press turns it round. */
    _sort(number) {
        const column = this.columns[number];
        const again = this.sorted.column === number;
        this.sorted = { column: number, falls: again ? !this.sorted.falls : Boolean(column.number) };
        this.heads.forEach((head, position) => {
            const order = this.sorted.falls ? "descending" : "ascending";
            head.setAttribute("aria-sort", position === number ? order : "none");
        });
        this._arrange();
    }

    _filtered() {
        const words = this.filter.value.toLowerCase().split(/\s+/).filter(Boolean);
        this.shown = words.length
            ? this.rows.filter((row) => words.every((word) => this._plain(row).includes(word)))
            : this.rows;
        this._arrange();
    }

    _arrange() {
        const { column, falls } = this.sorted;
        if (column >= 0) {
            const value = this.columns[column].value;
            const order = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
            this.shown = [...this.shown].sort((a, b) =>
                falls ? order(value(b), value(a)) : order(value(a), value(b)),
            );
        }
        this.first = 0;
        this._fill();
    }

    /** What of a row is looked through, in lower case. */
    _plain(row) {
        row.plain ??= this.columns
            .map((column) => (column.text && !column.element ? column.text(row) : column.value(row)))
            .join(" ")
            .toLowerCase();
        return row.plain;
    }

    _turn(step) {
        this.first = Math.max(0, Math.min(this.shown.length - 1, this.first + step * ROWS_AT_ONCE));
        this._fill();
    }

    _fill() {
        const part = this.shown.slice(this.first, this.first + ROWS_AT_ONCE);
        this.body.replaceChildren(...part.map((row) => this._row(row)));
        const end = this.first + part.length;
        this.turns[0].disabled = this.first === 0;
        this.turns[1].disabled = end >= this.shown.length;
        const shown = part.length
            ? `${countText(this.first + 1)}–${countText(end)} of ${countText(this.shown.length)}`
            : "none";
        const all = this.shown.length === this.rows.length ? "" : `, filtered from ${countText(this.rows.length)}`;
        const rest = this.total - this.rows.length;
        this.status.textContent = `${shown}${all}${rest > 0 ? `; ${countText(rest)} more are not in this report` : ""}`;
    }

    _row(row) {
        const cells = this.columns.map((column) => {
            const look = [
                column.number && "number",
                column.code && "code",
                column.wide && "wide",
                column.clipped && "clipped",
            ]
                .filter(Boolean)
                .join(" ");
            const content = (column.text || column.value)(row);
            return el("td", { class: look || null }, content instanceof Node ? content : String(content));
        });
        return el("tr", {}, ...cells);
    }
}

/** Several of them, one at a time: `entries` are pairs of a name and a table. */
function tabbed(entries) {
    const panels = entries.map(([name, table], number) =>
        el(
            "div",
            { role: "tabpanel", id: `panel-${number}`, "aria-labelledby": `tab-${number}`, "data-name": name },
            table.element,
        ),
    );
    const tabs = entries.map(([name, table], number) =>
        el(
            "button",
            {
                type: "button",
                role: "tab",
                id: `tab-${number}`,
                "aria-controls": `panel-${number}`,
                on: { click: () => choose(number) },
            },
            name,
            el("span", { class: "muted" }, ` ${countText(table.total)}`),
        ),
    );
    const list = el("div", { role: "tablist", class: "tabs", "aria-label": "Tables" }, ...tabs);
    list.addEventListener("keydown", (event) => {
        const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
        if (!step) return;
        event.preventDefault();
        const at = tabs.indexOf(document.activeElement);
        choose((at + step + tabs.length) % tabs.length).focus();
    });
    choose(0);
    return [list, ...panels];

    function choose(number) {
        tabs.forEach((tab, position) => {
            tab.setAttribute("aria-selected", String(position === number));
            tab.tabIndex = position === number ? 0 : -1;
            panels[position].classList.toggle("unchosen", position !== number);
        });
        return tabs[number];
    }
}
