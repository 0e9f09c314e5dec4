// What the heat map shows of a process: cells (equal parts of mappings) and what each round wrote of them.

const SHARE_ALL = 254; // the value of a cell whose pages were all written
const FIRST_SEEN = 255; // that of one that a round holds, but does not say that it was written
const PRESENCE = { absent: 0, first: 1, later: 2 };

/** The columns of a process's regions as objects. */
function readRegions(process) {
    return process.regions.rows.map((row, index) => {
        const region = { index };
        process.regions.columns.forEach((column, position) => (region[column] = row[position]));
        const [name, path] = process.regions.names[region.name];
        return {
            ...region,
            name,
            path,
            perms: process.regions.perms[region.perms],
            kind: process.regions.kinds[region.kind],
            note: process.regions.notes[region.note],
        };
    });
}

class HeatModel {
    /** `process` as in the data, with `regions` read; `rounds` are those of the report. */
    constructor(process, rounds) {
        this.rounds = rounds;
        this.presence = process.presence;
        this.segments = []; // regions that have cells: each with its first cell, and whether it adjoins the one before
        this.nCells = 0;
        let previousEnd = 0;
        for (const region of process.regions) {
            if (!region.n_cells) continue;
            this.segments.push({ region, first: this.nCells, adjoins: region.start === previousEnd });
            previousEnd = region.start + region.n_pages;
            this.nCells += region.n_cells;
        }
        this.values = bytesOfBase64(process.cells);
        this.segmentOf = new Uint32Array(this.nCells);
        this.segments.forEach((segment, number) => {
            this.segmentOf.fill(number, segment.first, segment.first + segment.region.n_cells);
        });
        this.later = this.presence.filter((one) => one === PRESENCE.later).length;
        this._sumUp();
    }

    /** For each cell: how many times its pages were written on average, and in how many rounds any of them was. */
    _sumUp() {
        this.times = new Float32Array(this.nCells);
        this.writtenRounds = new Uint16Array(this.nCells);
        this.presence.forEach((presence, round) => {
            if (presence !== PRESENCE.later) return;
            const row = this.row(round);
            for (let cell = 0; cell < this.nCells; cell++) {
                if (!row[cell]) continue;
                this.times[cell] += row[cell] / SHARE_ALL;
                this.writtenRounds[cell] += 1;
            }
        });
        this.mostTimes = this.times.reduce((most, value) => Math.max(most, value), 0);
    }

    /** The values of all cells in a round (by its position). */
    row(round) {
        return this.values.subarray(round * this.nCells, (round + 1) * this.nCells);
    }

    /** Where a cell is: its segment, its first page, and how many it has. */
    place(cell) {
        const segment = this.segments[this.segmentOf[cell]];
        const { start, n_pages: all, cell_pages: step } = segment.region;
        const skipped = (cell - segment.first) * step;
        return { segment, page: start + skipped, pages: Math.min(step, all - skipped) };
    }

    /** The cell that has a page of the region with this index, or -1. */
    firstCellOf(index) {
        const segment = this.segments.find((one) => one.region.index === index);
        return segment ? segment.first : -1;
    }

    /** What a round wrote of a cell, in words. */
    roundText(round, cell) {
        const presence = this.presence[round];
        const name = `Round ${this.rounds[round].number}`;
        if (presence === PRESENCE.absent) return `${name}: the process is not in it`;
        const value = this.row(round)[cell];
        if (presence === PRESENCE.first) return `${name}: ${value ? "seen for the first time" : "nothing there"}`;
        if (!value) return `${name}: not written`;
        const { pages } = this.place(cell);
        const written = Math.floor((value * pages) / SHARE_ALL); // exact up to SHARE_ALL pages
        const about = pages > SHARE_ALL ? "about " : "";
        return `${name}: ${about}${countText(written)} of ${counted(pages, "page")} written`;
    }

    /** The same of all rounds. */
    totalText(cell) {
        if (!this.later) return "no round says what was written";
        const times = this.times[cell];
        const often = times ? `, each page ${times < 0.1 ? "less than 0.1" : times.toFixed(1)} times on average` : "";
        return `written in ${countText(this.writtenRounds[cell])} of ${counted(this.later, "round")}${often}`;
    }
}

function bytesOfBase64(text) {
    const binary = atob(text);
    const bytes = new Uint8Array(binary.length);
    for (let position = 0; position < binary.length; position++) bytes[position] = binary.charCodeAt(position);
    return bytes;
}
