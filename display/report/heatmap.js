// The heat map as something to look into: buttons, wheel, keys and pointer move a view over the cells.

const LEAST_CELLS = 8;
const ZOOM_STEP = 1.6;

class HeatMap {
    /** `process` has its regions read; the map takes the place of what `place` held. */
    constructor(place, process, rounds) {
        this.model = new HeatModel(process, rounds);
        if (!this.model.nCells) {
            place.replaceChildren(el("p", { class: "muted" }, "No round of this report has pages of its own memory."));
            return;
        }
        this.view = { from: 0, to: this.model.nCells, isTotal: false };
        this.cursor = null;
        this._build(place, process);
        this.drawing = new HeatDrawing(this.canvas, this.model);
        this._listen();
        onWidth(this.frame, (width) => this._resized(width));
    }

    /** Shows the region with this index and takes the focus; false if it has no cells. */
    show(index) {
        const first = this.model ? this.model.firstCellOf(index) : -1;
        if (first < 0) return false;
        const { n_cells: n } = this.model.place(first).segment.region;
        const margin = Math.max(n, LEAST_CELLS) * 0.1;
        this._look(first - margin, first + n + margin);
        this._moveTo(first, this.model.rounds.length - 1);
        this.frame.focus({ preventScroll: true });
        this.frame.scrollIntoView({ block: "center" });
        return true;
    }

    /** After a change of colours, or for print. */
    repaint() {
        if (!this.drawing) return;
        this.drawing.refreshPalette();
        this.drawing.drawOverview(this.strip);
        this._paint();
    }

    // ---- building ----

    _build(place, process) {
        const controls = heatControls({
            mode: (isTotal) => this._mode(isTotal),
            zoomIn: () => this._zoom(ZOOM_STEP),
            zoomOut: () => this._zoom(1 / ZOOM_STEP),
            left: () => this._pan(-0.5),
            right: () => this._pan(0.5),
            all: () => this._look(0, this.model.nCells),
            find: (finder) => this._find(finder, process),
        });
        this.modes = controls.modes;
        this.zoomText = controls.zoomText;
        const { segments, rounds } = this.model;
        const mappings = `${counted(segments.length, "mapping")} from left to right`;
        const label = `Heat map: ${mappings}, ${counted(rounds.length, "round")} from top to bottom`;
        this.canvas = el("canvas", { "aria-hidden": "true" });
        this.tip = el("div", { class: "tip", hidden: true });
        const attributes = { class: "map", tabindex: 0, role: "application", "aria-label": label };
        this.frame = el("div", { ...attributes, "aria-describedby": "heatmap-said" }, this.canvas, this.tip);
        this.window = el("span", { class: "window" });
        this.strip = el("canvas");
        this.overview = el("div", { class: "overview", "aria-hidden": "true" }, this.strip, this.window);
        this.said = el("p", { class: "said", id: "heatmap-said", "aria-live": "polite" });
        this._say(["Point at the map, or move the mark with the arrow keys."]);
        place.replaceChildren(controls.bar, this.frame, this.overview, this.said, heatLegend(this.model), heatKeys());
    }

    // ---- the view ----

    _look(from, to) {
        const n = this.model.nCells;
        const size = Math.min(n, Math.max(to - from, Math.min(LEAST_CELLS, n)));
        const start = Math.max(0, Math.min(n - size, (from + to - size) / 2));
        this.view = { ...this.view, from: start, to: start + size };
        this._paint();
    }

    /** Larger by a factor, with what is at `cell` staying where it is. */
    _zoom(factor, cell = this._centre()) {
        const { from, to } = this.view;
        const n = this.model.nCells;
        const size = Math.min(n, Math.max(Math.min(LEAST_CELLS, n), (to - from) / factor));
        const start = cell - ((cell - from) / (to - from)) * size;
        this._look(Math.max(0, Math.min(n - size, start)), Math.max(0, Math.min(n - size, start)) + size);
    }

    _pan(part) {
        const { from, to } = this.view;
        const step = Math.max(-from, Math.min(this.model.nCells - to, (to - from) * part));
        this._look(from + step, to + step);
    }

    _centre() {
        const { from, to } = this.view;
        const cell = this.cursor ? this.cursor.cell + 0.5 : -1;
        return cell >= from && cell <= to ? cell : (from + to) / 2;
    }

    _mode(isTotal) {
        this.view.isTotal = isTotal;
        this.modes.forEach((button, number) => button.setAttribute("aria-pressed", String((number === 1) === isTotal)));
        this._paint();
        if (this.cursor) this._say(this._lines(this.cursor));
    }

    /** Goes to the next mapping that has this in its name, or this address. */
    _find(finder, process) {
        const text = finder.value.trim().toLowerCase();
        if (!text) return;
        const page = /^0x[0-9a-f]+$/.test(text) ? Number(BigInt(text) / 4096n) : -1;
        const at = this.cursor ? this.model.place(this.cursor.cell).segment.region.index : -1;
        const found = process.regions.filter(
            (region) =>
                region.n_cells &&
                (page >= 0
                    ? region.start <= page && page < region.start + region.n_pages
                    : `${region.name} ${region.path}`.toLowerCase().includes(text)),
        );
        finder.setAttribute("aria-invalid", String(!found.length));
        if (!found.length) {
            this._say(["No mapping in the map is called that, or has that address."]);
            return;
        }
        this.show((found.find((region) => region.index > at) || found[0]).index);
        finder.focus({ preventScroll: true });
    }

    _resized(width) {
        this.width = width;
        this.drawing.drawOverview(this.strip);
        this._paint();
    }

    _paint() {
        if (!this.width) return;
        this.drawing.draw(this.width, this.view, this.cursor);
        const { from, to } = this.view;
        const n = this.model.nCells;
        this.window.style.left = `${(100 * from) / n}%`;
        this.window.style.width = `${(100 * (to - from)) / n}%`;
        const zoom = n / (to - from);
        this.zoomText.textContent = zoom > 1.005 ? `${zoom.toFixed(zoom < 10 ? 1 : 0)}×` : "";
    }

    // ---- what is pointed at ----

    _listen() {
        const { frame, overview } = this;
        frame.addEventListener("keydown", (event) => this._key(event));
        frame.addEventListener("wheel", (event) => this._wheel(event), { passive: false });
        frame.addEventListener("pointermove", (event) => this._pointed(event));
        frame.addEventListener("pointerleave", () => this._hideTip());
        frame.addEventListener("pointerdown", (event) => this._grab(event));
        frame.addEventListener("blur", () => this._hideTip());
        const jump = (event) => {
            const box = overview.getBoundingClientRect();
            const half = (this.view.to - this.view.from) / 2;
            const cell = ((event.clientX - box.left) / box.width) * this.model.nCells;
            const centre = Math.max(half, Math.min(this.model.nCells - half, cell));
            this._look(centre - half, centre + half);
        };
        overview.addEventListener("pointerdown", (event) => {
            overview.setPointerCapture(event.pointerId);
            jump(event);
        });
        overview.addEventListener("pointermove", (event) => event.buttons && jump(event));
    }

    /** The cell and round below the pointer, null beside the map. */
    _under(event) {
        const box = this.canvas.getBoundingClientRect();
        const part = (event.clientX - box.left - MAP.left) / (box.width - MAP.left - MAP.right);
        const y = event.clientY - box.top - MAP.band;
        if (part < 0 || part >= 1 || y >= this.drawing.bodyHeight(this.view.isTotal)) return null;
        const { from, to } = this.view;
        const cell = Math.min(this.model.nCells - 1, Math.floor(from + part * (to - from)));
        const round = Math.floor(Math.max(0, y) / this.drawing.rowHeight);
        return { cell, round: Math.min(round, this.model.rounds.length - 1), isName: y < 0 };
    }

    _pointed(event) {
        if (this.grabbed && event.buttons) {
            const cells = ((this.grabbed.x - event.clientX) / this.drawing.inner) * (this.view.to - this.view.from);
            this._look(this.grabbed.from + cells, this.grabbed.from + cells + (this.view.to - this.view.from));
            return;
        }
        const under = this._under(event);
        if (!under) return this._hideTip();
        const box = this.frame.getBoundingClientRect();
        this._showTip(this._lines(under), event.clientX - box.left, event.clientY - box.top);
    }

    _grab(event) {
        if (event.button) return;
        this.frame.focus({ preventScroll: true });
        this.frame.setPointerCapture(event.pointerId);
        this.grabbed = { x: event.clientX, from: this.view.from };
        this.frame.addEventListener("pointerup", (up) => this._release(up, event.clientX), { once: true });
    }

    /** A press without a move puts the mark there. */
    _release(event, startX) {
        this.grabbed = null;
        const under = this._under(event);
        if (under && Math.abs(event.clientX - startX) < 4) this._moveTo(under.cell, under.round);
    }

    _wheel(event) {
        const isWhole = this.view.to - this.view.from >= this.model.nCells;
        const isMeant = document.activeElement === this.frame || event.ctrlKey;
        if (!isMeant || (isWhole && event.deltaY > 0)) return; // the page scrolls
        const under = this._under(event);
        event.preventDefault();
        if (Math.abs(event.deltaX) > Math.abs(event.deltaY)) this._pan(event.deltaX / this.width);
        else this._zoom(Math.exp(-event.deltaY * 0.002), under ? under.cell + 0.5 : undefined);
        if (under) this._pointed(event);
    }

    /** Of a cell in a round: what is there, where, and how it was written. */
    _lines({ cell, round, isName }) {
        const { segment, page, pages } = this.model.place(cell);
        const { region } = segment;
        const end = page + pages;
        return [
            region.name,
            ...(region.path.startsWith("/") ? [region.path] : []),
            `${addressText(page)}–${addressText(end)}, ${pagesText(pages)}, ${region.perms} ${region.kind}`,
            ...(region.gone ? ["not mapped any more in the last round"] : []),
            ...(region.untracked ? ["not tracked: taken in each round, written or not"] : []),
            ...(this.view.isTotal || isName ? [] : [this.model.roundText(round, cell)]),
            this.model.totalText(cell),
        ];
    }

    _say(lines) {
        this.said.textContent = lines.join(" · ");
    }

    _showTip([name, ...lines], x, y) {
        this.tip.replaceChildren(el("strong", {}, name), ...lines.map((line) => el("span", {}, line)));
        this.tip.hidden = false;
        const width = this.tip.offsetWidth;
        const left = x + 16 + width > this.width ? Math.max(0, x - width - 16) : x + 16;
        this.tip.style.left = `${left}px`;
        this.tip.style.top = `${y + 16}px`;
    }

    _hideTip() {
        this.tip.hidden = true;
    }

    // ---- keys ----

    _key(event) {
        if (event.ctrlKey || event.altKey || event.metaKey) return;
        const actions = {
            "+": () => this._zoom(ZOOM_STEP),
            "=": () => this._zoom(ZOOM_STEP),
            "-": () => this._zoom(1 / ZOOM_STEP),
            0: () => this._look(0, this.model.nCells),
            PageUp: () => this._pan(-0.8),
            PageDown: () => this._pan(0.8),
            ArrowLeft: () => this._move(-1, 0),
            ArrowRight: () => this._move(1, 0),
            ArrowUp: () => this._move(0, -1),
            ArrowDown: () => this._move(0, 1),
            Home: () => this._moveTo(0, this._round()),
            End: () => this._moveTo(this.model.nCells - 1, this._round()),
            n: () => this._toMapping(1),
            p: () => this._toMapping(-1),
        };
        const action = actions[event.key];
        if (!action) return;
        event.preventDefault();
        action();
    }

    _round() {
        return this.cursor ? this.cursor.round : this.model.rounds.length - 1;
    }

    /** By what is at least some pixels, so that a key does something that is seen. */
    _move(columns, rounds) {
        const step = Math.max(1, Math.round(((this.view.to - this.view.from) / this.drawing.inner) * 4));
        const cell = this.cursor ? this.cursor.cell : Math.floor((this.view.from + this.view.to) / 2);
        this._moveTo(cell + columns * step, this._round() + (this.cursor ? rounds : 0));
    }

    _toMapping(step) {
        const { segments, segmentOf } = this.model;
        const at = this.cursor ? segmentOf[this.cursor.cell] + step : 0;
        this._moveTo(segments[Math.max(0, Math.min(segments.length - 1, at))].first, this._round());
    }

    _moveTo(cell, round) {
        const { nCells, rounds } = this.model;
        const at = Math.max(0, Math.min(nCells - 1, cell));
        this.cursor = { cell: at, round: Math.max(0, Math.min(rounds.length - 1, round)) };
        const { from, to } = this.view;
        if (at < from || at + 1 > to) this._look(at - (to - from) / 2, at + (to - from) / 2);
        else this._paint();
        const lines = this._lines(this.cursor);
        this._say(lines);
        const x = Math.min(this.drawing.xOf(at, this.view), this.width);
        const y = MAP.band + (this.view.isTotal ? 0 : this.cursor.round * this.drawing.rowHeight);
        this._showTip(lines, x, y);
    }
}
