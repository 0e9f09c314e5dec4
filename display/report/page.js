// The page: what Python put into the data block, brought into the sections of page.html.

const report = JSON.parse(document.getElementById("data").textContent);
for (const process of report.processes) process.regions = readRegions(process);
let heatMap = null;

fill(
    "title",
    el("bdi", {}, report.processes[0].name),
    el("span", { class: "muted" }, ` pid ${report.processes[0].pid}`),
);
fill("command", report.processes[0].command);
fill("origin", `${report.host} · ${report.checkpoint}`);
fill("tiles", ...tiles());
notes();
fill("convergence", ...convergence());
if (report.rounds.some((round) => round.full)) {
    document.getElementById("rounds-lead").append(" A hollow mark is a round that holds everything, written or not.");
}
freezes();
if (report.processes.length > 1) {
    const names = report.processes.map((process) => `${process.pid}  ${process.name}`);
    fill("process-chooser", chooser("Process", names, 0, showProcess));
}
showProcess(0);
fill(
    "footer",
    `Made by predump ${report.version} of round ${report.round}. `,
    "This page holds figures and names, but no memory of the process.",
);

for (const query of ["(prefers-color-scheme: dark)", "print"]) {
    matchMedia(query).addEventListener("change", () => heatMap.repaint());
}

// ---- all processes ----

function tiles() {
    const last = report.rounds[report.rounds.length - 1];
    const raw = report.rounds.reduce((sum, round) => sum + round.raw, 0);
    const stored = report.rounds.reduce((sum, round) => sum + round.stored, 0);
    const threads = report.members.reduce((sum, process) => sum + process.n_threads, 0);
    const isDump = last.kind === "dump";
    return [
        tile(report.n_members > 1 ? "Processes" : "Process", countText(report.n_members), counted(threads, "thread")),
        tile("Taken", last.time.slice(0, 10), last.time.slice(11)),
        tile(
            "Rounds",
            countText(report.rounds.length + report.rounds_left_out),
            isDump ? "the last one a dump" : "the last one a pre-dump: it may be torn",
        ),
        isDump
            ? tile(
                  "Frozen for",
                  durationText(last.frozen_ns),
                  last.predicted_ns ? `predicted ${durationText(last.predicted_ns)}` : "",
              )
            : tile("Frozen for", "–", "not frozen yet"),
        tile("Memory", pagesText(last.present), `${counted(last.present, "page")} present`),
        tile(
            "Stored",
            bytesText(stored),
            raw && stored ? `${(raw / stored).toFixed(1)}× smaller than ${bytesText(raw)}` : "in all rounds",
        ),
        tile(
            "Not captured",
            report.n_missing ? countText(report.n_missing) : "nothing",
            report.n_missing ? "see the table of what and why" : "",
        ),
    ];
}

function tile(name, value, detail) {
    return el(
        "div",
        { class: "tile" },
        el("dt", {}, name),
        el("dd", {}, el("span", { class: "value" }, value), el("span", { class: "muted" }, detail)),
    );
}

/** Says what is left out of a report of very much. */
function notes() {
    const left = [
        report.rounds_left_out && counted(report.rounds_left_out, "earlier round"),
        report.n_members > report.processes.length &&
            `the memory of ${counted(report.n_members - report.processes.length, "other process", "other processes")}`,
    ].filter(Boolean);
    if (!left.length) return;
    fill("limits", `Not shown: ${left.join(" and ")}.`).hidden = false;
}

function convergence() {
    const rounds = report.rounds;
    const labels = rounds.map((round) => String(round.number));
    const hollow = (position) => rounds[position].full;
    const explain = (position) => {
        if (rounds[position].full) return "It holds everything: nothing is known to be written.";
        return rounds[position].kind === "dump" ? "A dump: all of the shared memory comes with it." : "";
    };
    const line = (name, value) => [{ name, look: "line", class: "one", values: rounds.map(value) }];
    const common = { labels, hollow, explain };
    const charts = [
        roundChart({
            ...common,
            title: "Memory taken",
            series: line("Taken", (one) => one.written * PAGE_BYTES),
            base: 2,
            format: bytesText,
        }),
        roundChart({
            ...common,
            title: "Stored, compressed",
            series: line("Stored", (one) => one.stored),
            base: 2,
            format: bytesText,
        }),
    ];
    const dumps = rounds.filter((round) => round.kind === "dump");
    if (!dumps.length) return charts;
    const series = [
        { name: "predicted", look: "bar", class: "two", values: dumps.map((one) => one.predicted_ns || null) },
        { name: "real", look: "bar", class: "one", values: dumps.map((one) => one.frozen_ns) },
    ];
    const dumpLabels = dumps.map((round) => String(round.number));
    charts.push(
        roundChart({ title: "Freeze", labels: dumpLabels, series, base: 10, format: durationText, mayBeLog: false }),
    );
    return charts;
}

function freezes() {
    const dumps = report.rounds.filter((round) => round.kind === "dump" && round.frozen_ns > 0);
    document.getElementById("freeze-section").hidden = !dumps.length;
    if (!dumps.length) return;
    if (dumps.length > 1) {
        const names = dumps.map((round) => `${round.number}`);
        fill(
            "freeze-chooser",
            chooser("Round", names, dumps.length - 1, (number) => show(dumps[number])),
        );
    }
    show(dumps[dumps.length - 1]);

    function show(round) {
        const known = round.phases.reduce((sum, [, ns]) => sum + ns, 0);
        const rest = round.frozen_ns - known;
        const phases = rest > 0 && round.phases.length ? [...round.phases, ["other", rest]] : round.phases;
        const how = round.freeze_by ? `, the last pages by ${round.freeze_by}` : "";
        fill(
            "freeze-lead",
            `Round ${round.number} stood still for ${durationText(round.frozen_ns)}${how}; ` +
                `${counted(round.copied_frozen, "page")} copied meanwhile.`,
        );
        fill(
            "freeze",
            phases.length
                ? phaseChart(phases, Math.max(round.frozen_ns, known))
                : el("p", { class: "muted" }, "What it consisted of is not recorded."),
        );
    }
}

// ---- one process ----

function showProcess(number) {
    const process = report.processes[number];
    const { data, parent, zero, shared } = process.pages;
    const lead = [
        report.processes.length > 1 ? `${process.name}, pid ${process.pid}:` : "",
        process.note || `${counted(process.regions.length, "mapping")}, ${pagesText(data + parent + zero)} present.`,
        shared ? `${pagesText(shared)} are shared memory, which comes with a dump only and has no history here.` : "",
        process.elsewhere ? `${pagesText(process.elsewhere)} were written outside of those that are shown.` : "",
    ];
    fill("memory-lead", lead.filter(Boolean).join(" "));
    heatMap = new HeatMap(document.getElementById("heatmap"), process, report.rounds);
    fill("sizes", sizesView(process));
    fill("tables", ...tabbed(tables(report, process, (index) => heatMap.show(index))));
}
