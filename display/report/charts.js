// Charts of rounds and of the freeze, as SVG: sizes in CSS pixels, colours by the classes of page.css.

const CHART = { height: 210, left: 66, right: 10, top: 12, bottom: 30 };
const LOG_FROM_RATIO = 40;
const LEAST_WIDTH = 160;

/** Steps of 1, 2, 5 times a power of the unit's base, so that there are at most five up to `most`. */
function linearTicks(most, base) {
    const unit = base === 2 ? 1024 ** Math.max(0, Math.floor(Math.log(most) / Math.log(1024))) : 1;
    const rough = most / unit / 4;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].find((factor) => factor * power >= rough) * power * unit;
    const ticks = [];
    for (let tick = 0; tick <= most * 1.001; tick += step) ticks.push(tick);
    return ticks;
}

/** Powers of `base` with at most five of them between the two. */
function logTicks(least, most, base) {
    const first = Math.floor(Math.log(least) / Math.log(base));
    const last = Math.ceil(Math.log(most) / Math.log(base));
    const step = Math.max(1, Math.ceil((last - first) / 5));
    const ticks = [];
    for (let power = first; power < last + step; power += step) ticks.push(base ** power);
    return ticks;
}

/** From values to heights: linear from 0, or logarithmic where the largest is many times the smallest. */
function verticalScale(values, base, mayBeLog) {
    const positive = values.filter((value) => value > 0);
    const most = Math.max(...positive, 0) || 1;
    const least = Math.min(...positive, most);
    const height = CHART.height - CHART.top - CHART.bottom;
    const bottom = CHART.top + height;
    if (mayBeLog && most / least > LOG_FROM_RATIO) {
        const ticks = logTicks(least, most, base);
        const [low, high] = [Math.log(ticks[0]), Math.log(ticks[ticks.length - 1])];
        const at = (value) => (value > 0 ? bottom - (height * (Math.log(value) - low)) / (high - low) : bottom);
        return { at, ticks, isLog: true };
    }
    return { at: (value) => bottom - (height * Math.max(value, 0)) / (most * 1.06), ticks: linearTicks(most, base) };
}

/** Which of `n` positions get a label, so that labels stand at least `room` apart in `width`. */
function labelled(n, width, room) {
    const fit = Math.max(1, Math.floor(width / room));
    const rough = Math.max(1, Math.ceil(n / fit));
    const step = [1, 2, 5, 10, 20, 25, 50, 100, 200, 500].find((one) => one >= rough) || rough;
    return (position) => position === n - 1 || (position % step === 0 && n - 1 - position > step / 2);
}

/**
 * A chart over rounds: `series` have a `name`, a `look` ("line" or "bar", with a `class`), and `values`, one for each
 * of `labels` (null: none). `hollow(i)` says of which round the values mean something else.
 */
function roundChart({
    title,
    labels,
    series,
    base,
    format,
    hollow = () => false,
    explain = () => "",
    mayBeLog = true,
}) {
    const values = series.flatMap((one) => one.values.filter((value) => value !== null));
    const scale = verticalScale(values, base, mayBeLog);
    const place = el("div", { class: "plot" });
    const names = series.length > 1 ? series.map((one) => el("span", { class: `key ${one.class}` }, one.name)) : [];
    const head = el("figcaption", {}, el("strong", {}, title), ...names);
    if (scale.isLog) head.append(el("span", { class: "muted" }, "logarithmic"));
    const figure = el("figure", { class: "chart" }, head, place);
    onWidth(place, (width) => place.replaceChildren(drawn(width)));
    return figure;

    function drawn(width) {
        const inner = width - CHART.left - CHART.right;
        const slot = inner / labels.length;
        const at = (position) => CHART.left + slot * (position + 0.5);
        const hasLabel = labelled(labels.length, inner, 34);
        const picture = svg("svg", {
            viewBox: `0 0 ${width} ${CHART.height}`,
            role: "img",
            "aria-label": `${title}. ${summary()}`,
        });
        for (const tick of scale.ticks) {
            const y = scale.at(tick);
            const label = { class: "tick", x: CHART.left - 8, y: y + 4, "text-anchor": "end" };
            picture.append(svg("line", { class: "grid", x1: CHART.left, x2: width - CHART.right, y1: y, y2: y }));
            picture.append(svg("text", label, format(tick)));
        }
        labels.forEach((label, position) => {
            if (!hasLabel(position)) return;
            const y = CHART.height - CHART.bottom + 17;
            picture.append(svg("text", { class: "tick", x: at(position), y, "text-anchor": "middle" }, label));
        });
        series.forEach((one, number) => {
            picture.append(...(one.look === "bar" ? bars(one, number, at, slot) : dots(one, at, slot)));
        });
        labels.forEach((label, position) => picture.append(hint(label, position, slot)));
        return picture;
    }

    function dots(one, at, slot) {
        const known = one.values.map((value, position) => [value, position]).filter(([value]) => value !== null);
        const points = known.map(([value, position]) => `${at(position)},${scale.at(value)}`).join(" ");
        const radius = Math.max(1.5, Math.min(4, slot / 3));
        const marks = known.map(([value, position]) => {
            const look = `mark ${one.class}${hollow(position) ? " hollow" : ""}`;
            return svg("circle", { class: look, cx: at(position), cy: scale.at(value), r: radius });
        });
        return [svg("polyline", { class: `trend ${one.class}`, points }), ...marks];
    }

    function bars(one, number, at, slot) {
        const width = Math.max(1, Math.min(22, (slot * 0.7) / series.length));
        const bottom = CHART.height - CHART.bottom;
        return one.values.flatMap((value, position) => {
            if (value === null) return [];
            const x = at(position) + (number - series.length / 2) * width;
            const y = Math.min(scale.at(value), bottom - 1);
            return [
                svg("rect", { class: `bar ${one.class}`, x, y, width: Math.max(1, width - 1), height: bottom - y }),
            ];
        });
    }

    /** Says the values of a round where the pointer is anywhere above or below them. */
    function hint(label, position, slot) {
        const lines = series.map((one) => {
            const value = one.values[position];
            return value === null ? null : `${one.name}: ${format(value)}`;
        });
        const text = [`Round ${label}`, ...lines, explain(position)].filter(Boolean).join("\n");
        const area = { class: "hit", x: CHART.left + slot * position, y: CHART.top, width: slot };
        return svg("rect", { ...area, height: CHART.height - CHART.top - CHART.bottom }, svg("title", {}, text));
    }

    function summary() {
        return series
            .map((one) => {
                const known = one.values.filter((value) => value !== null);
                return known.length
                    ? `${one.name}: ${format(known[0])} first, ${format(known[known.length - 1])} last`
                    : "";
            })
            .join("; ");
    }
}

/** What a freeze consisted of, one row a phase, each beginning where the one before it ended. */
function phaseChart(phases, totalNs) {
    const spoken = phases.map(([name, ns]) => `${name} ${durationText(ns)}`).join(", ");
    const list = el("div", { class: "phases", role: "img", "aria-label": `Phases of the freeze: ${spoken}` });
    let since = 0;
    for (const [name, ns] of phases) {
        const bar = el("span", { class: "phase" });
        bar.style.marginLeft = `${(100 * since) / totalNs}%`;
        bar.style.width = `${(100 * ns) / totalNs}%`;
        list.append(
            el("span", { class: "phase-name" }, name),
            el("span", { class: "phase-track" }, bar),
            el("span", { class: "number" }, durationText(ns)),
            el("span", { class: "number muted" }, percentText(ns, totalNs)),
        );
        since += ns;
    }
    return list;
}

/** Calls `draw` with the width of an element, now and whenever it changes. */
function onWidth(element, draw) {
    let known = 0;
    new ResizeObserver(() => {
        // Before it is printed it is of no width for a moment.
        const width = Math.max(LEAST_WIDTH, Math.round(element.clientWidth));
        if (width !== known) {
            known = width;
            draw(width);
        }
    }).observe(element);
}
