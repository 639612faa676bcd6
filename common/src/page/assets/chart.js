// A line over the last hour.

import { html, useState } from './preact.js';

const [WIDTH, HEIGHT] = [600, 100];

/** `values` are evenly spaced, the last one at `endMillis`; `null` where nothing is known. */
export function Chart({ title, values, intervalMillis, endMillis, format }) {
  const [at, setAt] = useState();
  const known = values.filter((value) => value !== null);
  if (known.length < 2) return html`<figure class="chart"><figcaption>${title}: the line begins a minute after the agent has.</figcaption></figure>`;
  const most = Math.max(...known, 1);
  const slots = Math.max(values.length - 1, 1);
  const x = (index) => (index / slots) * WIDTH;
  const y = (value) => HEIGHT - 2 - (value / most) * (HEIGHT - 6);
  let path = '';
  values.forEach((value, index) => {
    if (value === null) return;
    const begins = index === 0 || values[index - 1] === null;
    path += `${begins ? 'M' : 'L'}${x(index).toFixed(1)} ${y(value).toFixed(1)}`;
  });
  const clock = (index) => new Date(endMillis - (values.length - 1 - index) * intervalMillis).toLocaleTimeString([], { timeStyle: 'short' });
  const onMove = (event) => {
    const box = event.currentTarget.getBoundingClientRect();
    setAt(Math.round(((event.clientX - box.left) / box.width) * slots));
  };
  const shown = at !== undefined && values[at] !== undefined ? at : values.length - 1;
  const value = values[shown] === null ? 'not known' : format(values[shown]);
  const label = `${title}: ${format(known[known.length - 1])} now, at most ${format(Math.max(...known))} since ${clock(0)}`;
  return html`<figure class="chart">
    <figcaption><b>${title}</b> ${value} at ${clock(shown)} <span class="dim">· at most ${format(Math.max(...known))}</span></figcaption>
    <svg role="img" aria-label=${label} viewBox="0 0 ${WIDTH} ${HEIGHT}" preserveAspectRatio="none" onPointerMove=${onMove} onPointerLeave=${() => setAt(undefined)}>
      <path class="base" d="M0 ${HEIGHT - 1}H${WIDTH}" />
      ${at !== undefined && html`<path class="cursor" d="M${x(shown)} 0V${HEIGHT}" />`}
      <path class="line" d=${path} />
    </svg>
    <div class="axis" aria-hidden="true"><span>${clock(0)}</span><span>${clock(values.length - 1)}</span></div>
  </figure>`;
}
