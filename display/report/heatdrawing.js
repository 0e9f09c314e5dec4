// Draws a heat map onto a canvas: a view [from, to) of the cells, each round a row, or all rounds as bars.

const MAP = { left: 52, right: 2, band: 22, foot: 22, totalHeight: 180 };
const RAMP_STEPS = 256;

/** Colours by the custom properties of page.css, which know of light, dark and print. */
function readPalette(element) {
    const style = getComputedStyle(element);
    const colour = (name) => style.getPropertyValue(name).trim();
    const stops = [0, 1, 2, 3, 4, 5].map((number) => rgbOf(colour(`--heat-${number}`)));
    const ramp = new Uint32Array(RAMP_STEPS);
    for (let step = 0; step < RAMP_STEPS; step++) {
        const at = (step / (RAMP_STEPS - 1)) * (stops.length - 1);
        const stop = Math.min(Math.floor(at), stops.length - 2);
        ramp[step] = packed(stops[stop].map((one, i) => one + (stops[stop + 1][i] - one) * (at - stop)));
    }
    return {
        ramp,
        none: packed(rgbOf(colour("--heat-none"))),
        seen: packed(rgbOf(colour("--heat-seen"))),
        absent: packed(rgbOf(colour("--heat-absent"))),
        ink: colour("--ink"),
        muted: colour("--muted"),
        line: colour("--line"),
        bands: [colour("--band-a"), colour("--band-b")],
        gone: colour("--band-gone"),
        mark: colour("--focus"),
        font: `11px ${style.fontFamily}`,
    };
}

function rgbOf(hex) {
    return [1, 3, 5].map((position) => parseInt(hex.slice(position, position + 2), 16));
}

/** As ImageData has it: red in the lowest byte. */
function packed([red, green, blue]) {
    return ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
}

function cssOf(colour) {
    return `rgb(${colour & 255} ${(colour >> 8) & 255} ${(colour >> 16) & 255})`;
}

/** The step of the ramp for a share of 0 to 1: the root, so that little is seen, too. */
function rampStep(share) {
    return Math.min(RAMP_STEPS - 1, Math.floor(Math.sqrt(share) * (RAMP_STEPS - 1)));
}

class HeatDrawing {
    constructor(canvas, model) {
        this.canvas = canvas;
        this.model = model;
        this.rowHeight = Math.max(2, Math.min(22, Math.floor(420 / model.rounds.length)));
        this.palette = readPalette(canvas);
    }

    refreshPalette() {
        this.palette = readPalette(this.canvas);
    }

    /** Height of the part with rounds. */
    bodyHeight(isTotal) {
        return isTotal ? MAP.totalHeight : this.rowHeight * this.model.rounds.length;
    }

    /** Draws `view` (from, to, isTotal) `width` CSS pixels wide, with `cursor` (cell, round) marked if there is one. */
    draw(width, view, cursor) {
        const height = MAP.band + this.bodyHeight(view.isTotal) + MAP.foot;
        const ratio = window.devicePixelRatio || 1;
        this.width = width;
        this.inner = width - MAP.left - MAP.right;
        this.canvas.width = Math.round(width * ratio);
        this.canvas.height = Math.round(height * ratio);
        this.canvas.style.height = `${height}px`;
        const context = this.canvas.getContext("2d");
        context.scale(ratio, ratio);
        context.clearRect(0, 0, width, height);
        context.font = this.palette.font;
        context.textBaseline = "middle";
        this._columns(view, Math.round(this.inner * ratio));
        if (view.isTotal) this._total(context);
        else this._rounds(context);
        this._band(context, view);
        this._addresses(context, view, height);
        if (cursor) this._mark(context, view, cursor);
    }

    /** All cells as one thin strip: how often each was written. */
    drawOverview(canvas) {
        const { model, palette } = this;
        const n = Math.min(model.nCells, 2000);
        const pixels = new ImageData(n, 1);
        const colours = new Uint32Array(pixels.data.buffer);
        for (let column = 0; column < n; column++) {
            const start = Math.floor((column * model.nCells) / n);
            const end = Math.max(start + 1, Math.floor(((column + 1) * model.nCells) / n));
            const times = model.times.subarray(start, end).reduce((sum, one) => sum + one, 0) / (end - start);
            colours[column] = times ? palette.ramp[rampStep(times / model.mostTimes)] : palette.none;
        }
        canvas.width = n;
        canvas.height = 1;
        canvas.getContext("2d").putImageData(pixels, 0, 0);
    }

    /** Where a cell begins, in CSS pixels. */
    xOf(cell, view) {
        return MAP.left + ((cell - view.from) / (view.to - view.from)) * this.inner;
    }

    /** Which cells each column of device pixels stands for. */
    _columns(view, n) {
        this.starts = new Uint32Array(n);
        this.ends = new Uint32Array(n);
        const step = (view.to - view.from) / n;
        for (let column = 0; column < n; column++) {
            const start = Math.min(this.model.nCells - 1, Math.floor(view.from + column * step));
            this.starts[column] = start;
            this.ends[column] = Math.min(
                this.model.nCells,
                Math.max(start + 1, Math.floor(view.from + (column + 1) * step)),
            );
        }
    }

    _rounds(context) {
        const { model, palette } = this;
        const n = this.starts.length;
        const image = new ImageData(n, model.rounds.length);
        const pixels = new Uint32Array(image.data.buffer);
        model.presence.forEach((presence, round) => {
            const row = model.row(round);
            for (let column = 0; column < n; column++) {
                pixels[round * n + column] =
                    presence === PRESENCE.absent ? palette.absent : this._colour(row, column, presence);
            }
        });
        const buffer = document.createElement("canvas");
        buffer.width = n;
        buffer.height = model.rounds.length;
        buffer.getContext("2d").putImageData(image, 0, 0);
        context.imageSmoothingEnabled = false;
        context.drawImage(buffer, MAP.left, MAP.band, this.inner, this.bodyHeight(false));
        this._roundLines(context);
    }

    /** The colour of some cells in a round: by the mean of what was written of them, and seen however little it is. */
    _colour(row, column, presence) {
        let sum = 0;
        for (let cell = this.starts[column]; cell < this.ends[column]; cell++) sum += row[cell];
        if (!sum) return this.palette.none;
        if (presence === PRESENCE.first) return this.palette.seen;
        const share = sum / ((this.ends[column] - this.starts[column]) * SHARE_ALL);
        return this.palette.ramp[rampStep(share)];
    }

    /** Numbers of rounds at the left, and lines between them where there is room. */
    _roundLines(context) {
        const n = this.model.rounds.length;
        const hasLabel = labelled(n, n * this.rowHeight, 15);
        context.textAlign = "right";
        for (let round = 0; round < n; round++) {
            const y = MAP.band + round * this.rowHeight;
            if (this.rowHeight >= 8 && round) {
                context.fillStyle = this.palette.line;
                context.fillRect(MAP.left, y - 0.5, this.inner, 1);
            }
            if (hasLabel(round)) {
                context.fillStyle = this.palette.muted;
                context.fillText(String(this.model.rounds[round].number), MAP.left - 8, y + this.rowHeight / 2);
            }
        }
    }

    /** How many times each part was written, as bars. */
    _total(context) {
        const { model, palette } = this;
        const most = Math.max(model.mostTimes, 1);
        const height = MAP.totalHeight - 8;
        const bottom = MAP.band + MAP.totalHeight;
        context.textAlign = "right";
        for (const tick of linearTicks(most, 10)) {
            const y = bottom - (height * tick) / most;
            context.fillStyle = palette.line;
            context.fillRect(MAP.left, y - 0.5, this.inner, 1);
            context.fillStyle = palette.muted;
            context.fillText(`${Number(tick.toPrecision(3))}×`, MAP.left - 8, Math.max(y, MAP.band + 6));
        }
        const wide = this.inner / this.starts.length;
        for (let column = 0; column < this.starts.length; column++) {
            let sum = 0;
            for (let cell = this.starts[column]; cell < this.ends[column]; cell++) sum += model.times[cell];
            if (!sum) continue;
            const times = sum / (this.ends[column] - this.starts[column]);
            context.fillStyle = cssOf(palette.ramp[rampStep(times / most)]);
            const bar = Math.max(1.5, (height * times) / most);
            context.fillRect(MAP.left + column * wide, bottom - bar, wide, bar);
        }
    }

    /** The mappings above the map, with their names where there is room; a line where addresses were folded away. */
    _band(context, view) {
        const { segments, segmentOf } = this.model;
        const last = segmentOf[Math.min(this.model.nCells - 1, Math.ceil(view.to) - 1)];
        context.textAlign = "left";
        for (let number = segmentOf[Math.floor(view.from)]; number <= last; number++) {
            const { region, first, adjoins } = segments[number];
            const x = Math.max(MAP.left, this.xOf(first, view));
            const end = Math.min(this.width - MAP.right, this.xOf(first + region.n_cells, view));
            context.fillStyle = region.gone ? this.palette.gone : this.palette.bands[number % 2];
            context.fillRect(x, 0, end - x, MAP.band - 3);
            if (end - x >= 3 && number) {
                context.fillStyle = adjoins ? this.palette.line : this.palette.muted;
                context.fillRect(x - 0.5, 0, 1, MAP.band + this.bodyHeight(view.isTotal));
            }
            if (end - x < 24) continue;
            context.save();
            context.beginPath();
            context.rect(x + 5, 0, end - x - 8, MAP.band);
            context.clip();
            context.fillStyle = this.palette.ink;
            context.fillText(region.name, x + 5, (MAP.band - 3) / 2 + 0.5);
            context.restore();
        }
    }

    _addresses(context, view, height) {
        const { model } = this;
        const first = model.place(Math.floor(view.from));
        const last = model.place(Math.min(model.nCells - 1, Math.ceil(view.to) - 1));
        context.fillStyle = this.palette.muted;
        const y = height - MAP.foot / 2 + 2;
        context.textAlign = "left";
        context.fillText(addressText(first.page), MAP.left, y);
        context.textAlign = "right";
        context.fillText(addressText(last.page + last.pages), this.width - MAP.right, y);
    }

    _mark(context, view, { cell, round }) {
        const x = this.xOf(cell, view);
        const width = Math.max(3, this.inner / (view.to - view.from));
        const y = view.isTotal ? MAP.band : MAP.band + round * this.rowHeight;
        const height = view.isTotal ? MAP.totalHeight : this.rowHeight;
        context.strokeStyle = this.palette.mark;
        context.lineWidth = 2;
        context.strokeRect(x - 1, y - 1, width + 2, height + 2);
    }
}
