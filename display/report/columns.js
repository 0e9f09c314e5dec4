// Which tables there are, and what stands in their columns.

/** The tables of the page for one process; `show` brings a mapping into the map. */
function tables(report, process, show) {
    const entry = (name, columns, rows, total) => [name, new SortedTable(name, columns, rows, total)];
    const { rounds, members, missing } = report;
    const { regions, threads } = process;
    return [
        entry("Rounds", roundColumns(), rounds, rounds.length + report.rounds_left_out),
        entry("Mappings", regionColumns(show), regions, regions.length + process.regions_left_out),
        entry("Processes", processColumns(), members, report.n_members),
        entry("Threads", threadColumns(), threads, process.n_threads),
        ...(missing.length ? [entry("Not captured", missingColumns(), missing, report.n_missing)] : []),
    ];
}

/** A column of a number under a key of the row, shown by `format`. */
function figure(name, key, format = countText, title = null) {
    const text = (row) => (row[key] ? format(row[key]) : "–");
    return { name, title, number: true, value: (row) => row[key], text };
}

function words(name, key, more = {}) {
    return { name, value: (row) => row[key], ...more };
}

function roundColumns() {
    return [
        { name: "Round", number: true, value: (row) => row.number },
        words("Kind", "kind"),
        words("Time", "time", { title: "In the time zone of whoever made the report" }),
        figure("Taken", "written", pagesText, "Memory copied for this round"),
        figure("Data", "data", pagesText, "Pages with content that it stores"),
        figure("Zero", "zero", pagesText, "Pages of zeros"),
        figure("Parent", "parent", pagesText, "Pages that it leaves to earlier rounds"),
        figure("Stored", "stored", bytesText),
        {
            name: "Ratio",
            number: true,
            value: (row) => (row.stored ? row.raw / row.stored : 0),
            text: (row) => (row.raw && row.stored ? `${(row.raw / row.stored).toFixed(1)}×` : "–"),
        },
        figure("Took", "duration_ns", durationText),
        figure("Frozen", "frozen_ns", durationText),
        figure("Predicted", "predicted_ns", durationText, "Frozen time as it was predicted right before"),
        words("Note", "note", { wide: true }),
    ];
}

function regionColumns(show) {
    const link = (row) => {
        const on = { click: () => show(row.index) };
        return el("button", { type: "button", class: "link", title: `Show ${row.name} in the map`, on }, row.name);
    };
    const name = (row) => (row.n_cells ? link(row) : el("bdi", { title: row.path }, row.name));
    return [
        { name: "Start", code: true, value: (row) => row.start, text: (row) => addressText(row.start) },
        { name: "Name", element: true, clipped: true, value: (row) => row.name, text: name },
        words("Perms", "perms", { code: true }),
        words("Kind", "kind"),
        figure("Size", "n_pages", pagesText),
        figure("Data", "data", pagesText),
        figure("Zero", "zero", pagesText),
        figure("Parent", "parent", pagesText),
        figure("Absent", "absent", pagesText),
        figure("Written", "written", pagesText, "In all rounds that say what was written, a page once for each"),
        figure("In rounds", "written_rounds", countText, "How many rounds found something written"),
        figure("Stored", "stored", bytesText, "In all rounds; of frames that mappings share, a part by pages"),
        words("Note", "note", { wide: true }),
    ];
}

function processColumns() {
    return [
        { name: "Pid", number: true, value: (row) => row.pid },
        { name: "Parent", number: true, value: (row) => row.ppid },
        words("Name", "name"),
        figure("Threads", "n_threads"),
        figure("Present", "present", pagesText),
        figure("Taken", "written", pagesText, "Memory copied for the last round"),
        words("Command", "command", { wide: true }),
        words("Note", "note", { wide: true }),
    ];
}

function threadColumns() {
    return [
        { name: "Tid", number: true, value: (row) => row.tid },
        words("Name", "name"),
        words("Where", "where", { code: true, title: "The instruction that came next" }),
        words("System call", "call"),
        words("State", "notes", { wide: true }),
    ];
}

function missingColumns() {
    return [words("What", "what", { wide: true }), words("Why", "why", { wide: true })];
}
